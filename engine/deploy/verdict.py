"""Predicted against served: whether a server does what was measured here, and if not, why that may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.catalogue import Proposals
from engine.deploy.causes import Cause, Evidence, ranked, served_counts
from engine.deploy.figures import Figure, by_place, headline
from engine.deploy.prediction import Prediction, Predictor, default_proposals
from engine.errors import DraftbenchError
from engine.numbers import interval
from engine.records.served import ServedMeasurement

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


def judge(measurement: ServedMeasurement, predictor: Predictor) -> Verdict:
    """Compare a served measurement with what its run predicts; 'open' where that cannot be done, with the reason."""
    if math.isnan(measurement.temperature):
        return Verdict(
            "open",
            "the temperature of the requests is not known",
            fix="import it again with --temperature T",
        )
    gamma, proposals, taken = _settings(measurement, predictor)
    if gamma is None:
        return Verdict("open", "the number of draft tokens is not known", fix="import it again with --gamma N")
    try:
        prediction = predictor.predict(measurement.server, measurement.temperature, proposals, gamma)
    except DraftbenchError as error:
        return Verdict("open", f"{error.what}: {error.why}", taken=taken, fix=error.fix)
    served = served_counts(measurement)
    figures, places = headline(prediction, served), by_place(prediction, served)
    if not figures:
        return Verdict("open", "the server counts nothing that was predicted", places=places, taken=taken)
    agreement = [figure.agrees for figure in figures]
    if all(one is None for one in agreement):
        why = "of one request or round no interval can be taken"
        return Verdict("open", why, figures, places, taken=taken, fix="ask the server more prompts")
    if False not in agreement:
        return Verdict("agrees", _sentence(figures, "as predicted"), figures, places, taken=taken)
    causes = ranked(_evidence(measurement, prediction, figures, predictor))
    return Verdict("differs", _sentence(figures, "not as predicted"), figures, places, causes, taken)


def _settings(measurement: ServedMeasurement, predictor: Predictor) -> tuple[int | None, Proposals, tuple[str, ...]]:
    """gamma, the sampling rule, and a sentence for each that was not stated."""
    gamma, proposals, taken = measurement.num_draft_tokens, measurement.proposals, []
    if gamma is None and predictor.conditions.num_draft_tokens is not None:
        gamma = predictor.conditions.num_draft_tokens
        taken.append(f"{gamma} draft tokens, as in the run: the figures do not say it (--gamma)")
    if proposals is None:
        proposals = default_proposals(measurement.server) or "argmax"
        if measurement.temperature > 0:
            rule = "the draft's likeliest token proposed" if proposals == "argmax" else "proposals drawn from the draft"
            taken.append(f"{rule}, as {measurement.server} does by default (--proposals)")
    return gamma, proposals, tuple(taken)


def _sentence(figures: Sequence[Figure], word: str) -> str:
    parts = [
        f"{figure.title} {interval(figure.served)} served, {interval(figure.predicted)} predicted" for figure in figures
    ]
    return f"{word}: {'; '.join(parts)}"


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
