"""Predicted against served: whether a server does what was measured here, and if not, why that may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.catalogue import Proposals
from engine.deploy.causes import Cause, Evidence, ranked, served_counts
from engine.deploy.figures import Figure, by_place, headline
from engine.deploy.importing import LIMITS
from engine.deploy.prediction import Prediction, Predictor, default_proposals
from engine.errors import DraftbenchError
from engine.numbers import interval
from engine.records.served import ServedMeasurement
from engine.runs.folder import RunFolder

Outcome = Literal["agrees", "differs", "open"]


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison. `taken`: what was taken for granted; `causes`: of a gap, the likeliest first."""

    outcome: Outcome
    sentence: str
    figures: Sequence[Figure] = ()
    places: Sequence[Figure] = ()
    causes: Sequence[Cause] = ()
    taken: Sequence[str] = ()
    fix: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **asdict(self),
            "figures": [figure.document() for figure in self.figures],
            "places": [figure.document() for figure in self.places],
        }


def judge_of_run(measurement: ServedMeasurement, run: RunFolder) -> Verdict:
    """As `judge`; 'open' too where nothing can be predicted from the run."""
    try:
        return judge(measurement, Predictor.of_run(run.path, run.id))
    except DraftbenchError as error:
        return Verdict("open", f"{error.what}: {error.why}" if error.why else error.what, fix=error.fix)


def judge(measurement: ServedMeasurement, predictor: Predictor) -> Verdict:
    """Compare a served measurement with what its run predicts; 'open' where that cannot be done, with the reason.

    It agrees if no headline figure is further apart than 1.96 standard errors, and no place of the proposal further
    than chance allows one of so many (Holm's bound over the places, see `engine.deploy.figures`): a mean may be right
    while its parts are not.
    """
    if math.isnan(measurement.temperature):
        return Verdict(
            "open",
            "the temperature of the requests is not known",
            fix="import it again with --temperature T",
        )
    gamma, proposals, taken = _settings(measurement, predictor)
    if gamma is None:
        return Verdict("open", "the number of draft tokens is not known", fix="import it again with --gamma N")
    low, high = LIMITS["gamma"]
    if not low <= gamma <= high:  # of a file that was edited
        why = f"{gamma:,} draft tokens a round are not possible"
        return Verdict("open", why, taken=taken, fix="import it again with --gamma N")
    if proposals is None:
        why = f"whether {measurement.server} proposes the draft's likeliest token or draws one is not known"
        return Verdict("open", why, taken=taken, fix="import it again with --proposals argmax or --proposals sampled")
    try:
        prediction = predictor.predict(measurement.server, measurement.temperature, proposals, gamma)
    except DraftbenchError as error:
        return Verdict("open", f"{error.what}: {error.why}", taken=taken, fix=error.fix)
    served = served_counts(measurement)
    figures, places = headline(prediction, served), by_place(prediction, served)
    compared = [*figures, *places]
    if not compared:
        return Verdict("open", "the server counts nothing that was predicted", taken=taken)
    if all(figure.agrees is None for figure in compared):
        why = "one request or round is too few for an interval"
        return Verdict("open", why, figures, places, taken=taken, fix="ask the server more prompts")
    sentence = _sentence(figures, places)
    if all(figure.agrees is not False for figure in compared):
        return Verdict("agrees", sentence, figures, places, taken=taken)
    causes = ranked(_evidence(measurement, prediction, compared, predictor))
    return Verdict("differs", sentence, figures, places, causes, taken)


def _settings(
    measurement: ServedMeasurement, predictor: Predictor
) -> tuple[int | None, Proposals | None, tuple[str, ...]]:
    """gamma, the sampling rule, and a sentence for each that was not stated. None: not known."""
    gamma, proposals, taken = measurement.num_draft_tokens, measurement.proposals, []
    if gamma is None and predictor.conditions.num_draft_tokens is not None:
        gamma = predictor.conditions.num_draft_tokens
        taken.append(f"{gamma} draft tokens, as in the run: the figures do not say it (--gamma)")
    default = default_proposals(measurement.server)
    if proposals is None and measurement.temperature == 0:
        proposals = default or "argmax"  # the rules are one
    elif proposals is None and default is not None:
        proposals = default
        rule = "the draft's likeliest token proposed" if proposals == "argmax" else "proposals drawn from the draft"
        taken.append(f"{rule}, as {measurement.server} does by default (--proposals)")
    if default is None:
        taken.append(
            f"{measurement.server or 'the server'} is not known here: it is taken to count as our own loop does"
        )
    return gamma, proposals, tuple(taken)


def _sentence(figures: Sequence[Figure], places: Sequence[Figure]) -> str:
    """What was compared: the headline figures, and the places that disagree."""
    off = [figure for figure in places if figure.agrees is False]
    if any(figure.agrees is False for figure in figures):
        word = "not as predicted"
    else:
        word = "not as predicted by place" if off else "as predicted"
    named = [f"{_both(figure)} ({figure.distance:+.1f} standard errors)" for figure in off]
    return f"{word}: {'; '.join([*map(_both, figures), *named])}"


def _both(figure: Figure) -> str:
    return f"{figure.title} {interval(figure.served)} served, {interval(figure.predicted)} predicted"


def _evidence(
    measurement: ServedMeasurement, prediction: Prediction, figures: Sequence[Figure], predictor: Predictor
) -> Evidence:
    def predict(temperature: float, proposals: Proposals, gamma: int) -> Prediction | None:
        try:
            return predictor.predict(measurement.server, temperature, proposals, gamma)
        except DraftbenchError:
            return None

    conditions = predictor.conditions
    return Evidence(
        measurement,
        prediction,
        figures,
        predict,
        predictor.temperatures,
        conditions.precision,
        conditions.heldout_hash,
        conditions.max_new_tokens,
    )
