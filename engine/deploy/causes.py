"""Why a server shows another acceptance than was predicted: the likely causes, ranked by what speaks for each.

Two kinds of evidence. A cause that can be undone in the numbers (another sampling rule, temperature or number of draft
tokens, the target's own token counted as accepted) is as likely as undoing it takes the gap away. A cause that leaves
its mark elsewhere (a confidence cut-off proposes less, another template or longer answers change what is answered,
rounded weights are known by their name) is as likely as the mark is plain. What is known not to be so is left out.
Nothing here reads a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.catalogue import Proposals
from engine.deploy.figures import Figure, Served, Z, compared, headline, largest_distance
from engine.deploy.prediction import Prediction
from engine.numbers import number
from engine.records.served import RoundTotals, ServedMeasurement

_ROUNDED = re.compile(r"q\d|iq\d|int[48]|fp[48]|nvfp4|mxfp4|awq|gptq|w[48]a|[48]bit|bnb", re.IGNORECASE)
_FEWER, _MORE = 0.97, 1.03  # of the predicted number of proposed tokens: beyond what the ends of answers explain
_OTHER_LENGTH = 1.5  # times the predicted answers: the context is another one
_ZERO = 0.005  # temperatures nearer than this are the same
_RULES: dict[Proposals, str] = {
    "argmax": "the draft's likeliest token is proposed",
    "sampled": "proposals are drawn from the draft",
}

Predict = Callable[[float, Proposals, int], Prediction | None]
"""Temperature, rule and gamma -> what the same server should count under them; None where it is not known."""


@dataclass(frozen=True)
class Cause:
    """A possible cause. `weight`: how much speaks for it, 0 to 1; `why`: what; `fix`: what to do about it."""

    name: str
    title: str
    weight: float
    why: str
    fix: str

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """All that is known when a gap is looked at."""

    measurement: ServedMeasurement
    prediction: Prediction
    figures: Sequence[Figure]
    predict: Predict
    temperatures: Sequence[float] = ()
    precision: str | None = None
    """Of the target that was measured, such as 'bfloat16 with int8 weights'."""
    heldout_hash: str | None = None
    max_new_tokens: int | None = None

    @property
    def gap(self) -> float:
        """The largest distance of the figures, in standard errors."""
        return largest_distance(self.figures)

    @property
    def is_lower(self) -> bool:
        """Whether the server accepts less than predicted."""
        return bool(self.figures) and self.figures[0].served.value < self.figures[0].predicted.value

    @property
    def is_by_place_alone(self) -> bool:
        """Whether the headline figures agree, and only places of the proposal do not."""
        return all(figure.agrees is not False for figure in self.figures if not figure.name.startswith("place_"))

    @property
    def served(self) -> Served:
        return served_counts(self.measurement)

    @property
    def mean_answer_tokens(self) -> float:
        """Of the server's answers; NaN where they are not counted."""
        totals = self.measurement.totals
        return totals.emitted / totals.requests if totals.emitted and totals.requests else math.nan

    def left(self, prediction: Prediction | None, served: Served | None = None) -> float:
        """The gap that is left under another prediction or with other counts; infinite where there is none."""
        if prediction is None:
            return math.inf
        left = largest_distance(compared(prediction, served or self.served))
        return math.inf if math.isnan(left) else left


def served_counts(measurement: ServedMeasurement) -> Served:
    """The counts of a measurement as they are compared."""
    return Served(measurement.totals, measurement.per_request, measurement.prompt_ids)


def ranked(evidence: Evidence) -> list[Cause]:
    """The causes for which something speaks, the likeliest first."""
    causes = [cause for find in _FINDERS if (cause := find(evidence)) is not None and cause.weight > 0]
    return sorted(causes, key=lambda cause: -cause.weight)


def _explained(evidence: Evidence, left: float, most: float) -> float:
    """The weight of a cause that can be undone: `most` if nothing is left of the gap, little if more than chance is."""
    if not left < evidence.gap:
        return 0.0
    if left <= Z:
        return most * (1 - 0.3 * (left / Z) ** 2)
    return 0.3 * most * (1.0 if math.isinf(evidence.gap) else 1 - left / evidence.gap)


def other_rule(evidence: Evidence) -> Cause | None:
    """The server proposes by the other rule than the prediction is for."""
    prediction, here = evidence.prediction, evidence.prediction.proposals
    other: Proposals = "sampled" if here == "argmax" else "argmax"
    if prediction.temperature < _ZERO:
        return None  # the rules are one
    under_other = evidence.predict(prediction.temperature, other, prediction.gamma)
    weight = _explained(evidence, evidence.left(under_other), 0.95)
    if under_other is None:
        return None
    return Cause(
        "sampling_rule",
        "the other sampling rule",
        weight,
        f"{_RULES[other]} would give {_values(headline(under_other, evidence.served))}",
        "vLLM: draft_sample_method in --speculative-config; then import with --proposals " + other,
    )


def bonus_counted(evidence: Evidence) -> Cause | None:
    """The target's own token of each round is counted as accepted, or is not counted as emitted."""
    totals = evidence.measurement.totals
    if totals.accepted is None or not totals.rounds:
        return None
    best: tuple[float, str] = (0.0, "")
    for sign, word in ((-1, "less"), (1, "more")):
        shifted = _shifted(evidence.measurement, sign)
        if shifted is not None:
            weight = _explained(evidence, evidence.left(evidence.prediction, shifted), 0.98)
            best = max(best, (weight, f"with one token a round {word} the figures agree, or nearly"))
    requests, emitted = totals.requests or 0, totals.emitted
    beyond = 0 if emitted is None else totals.accepted + totals.rounds - emitted
    if emitted is not None and beyond > evidence.prediction.gamma * max(requests, 1) and beyond > 0.5 * totals.rounds:
        why = f"accepted tokens and rounds are {beyond:,} more than the {emitted:,} tokens of the answers"
        best = max(best, (0.9, why))
    return Cause("bonus", "the target's own token counted as accepted", *best, "import the counts without it")


def _shifted(measurement: ServedMeasurement, sign: int) -> Served | None:
    """The counts with one accepted token a round more or less; None where there would be less than none."""

    def shift(counts: RoundTotals) -> RoundTotals:
        change = {"accepted": (counts.accepted or 0) + sign * (counts.rounds or 0), "accepted_at": None}
        return counts.model_copy(update=change)

    totals = shift(measurement.totals)
    requests = [shift(request) for request in measurement.per_request if request.rounds is not None]
    if (totals.accepted or 0) < 0 or any((request.accepted or 0) < 0 for request in requests):
        return None
    return Served(totals, requests, measurement.prompt_ids)


def other_temperature(evidence: Evidence) -> Cause | None:
    """The answers were drawn at another temperature than was stated."""
    prediction, best = evidence.prediction, (math.inf, math.nan)
    for temperature in evidence.temperatures:
        if abs(temperature - prediction.temperature) > _ZERO:
            other = evidence.predict(temperature, prediction.proposals, prediction.gamma)
            best = min(best, (evidence.left(other), temperature))
    if math.isinf(best[0]):
        return None
    return Cause(
        "temperature",
        "another temperature",
        # a probe sets the temperature itself, and some answers carry it
        _explained(evidence, best[0], 0.3 if evidence.measurement.form in ("probe", "llama.cpp") else 0.85),
        f"it agrees better with the prediction at temperature {best[1]:g}",
        "check temperature, top_p, top_k and min_p of the requests: a server's defaults may sharpen the distribution",
    )


def other_length(evidence: Evidence) -> Cause | None:
    """The server proposes another number of tokens than was taken for granted."""
    share = _proposed_share(evidence)
    if math.isnan(share):
        return None
    gamma = evidence.prediction.gamma
    per_round = share * _per_round(evidence.prediction)
    nearest = round(per_round)
    if nearest == gamma or not 1 <= nearest <= 64 or not _FEWER <= per_round / nearest <= _MORE:
        return None
    other = evidence.predict(evidence.prediction.temperature, evidence.prediction.proposals, nearest)
    return Cause(
        "draft_length",
        "another number of draft tokens",
        _explained(evidence, evidence.left(other), 0.96),
        f"{per_round:.2f} tokens are proposed a round, and {nearest} instead of {gamma} explain the figures",
        f"import with --gamma {nearest}",
    )


def cut_off(evidence: Evidence) -> Cause | None:
    """The draft stops proposing where it is not sure (llama.cpp's p_min), or a schedule makes it propose less."""
    share = _proposed_share(evidence)
    threshold = evidence.measurement.draft_p_min
    if math.isfinite(threshold) and threshold <= 0 and not share < _FEWER:
        return None
    said = f"the draft proposes from a probability of {threshold:g} on; " if threshold > 0 else ""
    if not share < _FEWER and not said:
        return None
    weight = min(0.92, 0.5 + 5 * (_FEWER - share)) if share < _FEWER else 0.5
    proposed = f"{share:.0%} of the predicted tokens are proposed" if math.isfinite(share) else "see its settings"
    return Cause(
        "cut_off",
        "a confidence cut-off, or a schedule of draft lengths",
        weight if not evidence.is_lower or share < 0.9 else 0.6 * weight,
        f"{said}{proposed}",
        "llama.cpp: --spec-draft-p-min 0; vLLM: no num_speculative_tokens_per_batch_size; SGLang: no adaptive config",
    )


def other_prompts(evidence: Evidence) -> Cause | None:
    """The server answered other prompts, or rendered them by another template."""
    sent, held = evidence.measurement.prompts_hash, evidence.heldout_hash
    known = sent is not None and held is not None
    if known and sent == held:
        why, weight = "the prompts are the held-out ones, so only the server's chat template can differ", 0.4
    elif known:
        why, weight = "the prompts that were sent are not the run's held-out ones", 0.7
    else:
        why, weight = "it is not known whether the prompts are like the run's held-out ones", 0.45
    ratio = evidence.mean_answer_tokens / evidence.prediction.mean_answer_tokens
    if not 0.75 <= ratio <= 1.33 and math.isfinite(ratio) and ratio < _OTHER_LENGTH:
        why, weight = why + f"; its answers have {ratio:.0%} of the tokens", weight + 0.1
    if evidence.is_by_place_alone:
        why = f"{why}; the means agree and the places do not, as of texts of which some are easier and some harder"
        weight += 0.2
    return Cause(
        "prompts",
        "another chat template, or other prompts",
        weight,
        why,
        "start the server with the target's template; `draftbench served probe URL --run RUN` sends the same prompts",
    )


def rounded_weights(evidence: Evidence) -> Cause | None:
    """The served target's weights are rounded otherwise than those that were measured."""
    served, measured = evidence.measurement.weights, evidence.precision
    if served is not None:
        served_rounded, measured_rounded = bool(_ROUNDED.search(served)), bool(_ROUNDED.search(measured or ""))
        if not served_rounded and not measured_rounded:
            return None
        if served_rounded and measured_rounded:
            why, weight = f"both are rounded: {served} there, {measured} here", 0.3
        else:
            why, weight = f"the server runs {served}, measured was {measured}", 0.75 if evidence.is_lower else 0.3
    elif evidence.measurement.server in ("llama.cpp", "lm-studio"):
        why, weight = "GGUF files are often rounded; the server's weights are not known", 0.35
    else:
        why, weight = "the precision of the server's weights is not known", 0.25
    if not evidence.is_lower:
        weight *= 0.5
    return Cause(
        "weights",
        "rounded weights",
        weight,
        why,
        "measure against the weights that are served, or serve the target unrounded once; --weights states them",
    )


def other_context(evidence: Evidence) -> Cause | None:
    """Answers or prompts of the server are longer than those that were measured."""
    ratio = evidence.mean_answer_tokens / evidence.prediction.mean_answer_tokens
    if ratio >= _OTHER_LENGTH:
        why, weight = f"its answers have {ratio:.1f} times as many tokens as those measured", 0.8
    elif math.isfinite(ratio):
        return None
    else:
        why, weight = "the lengths of its answers are not known", 0.2
    return Cause(
        "context",
        "longer contexts",
        weight if evidence.is_lower else 0.5 * weight,
        why,
        "measure with a larger measure.max_new_tokens and prompts as long as those served",
    )


_FINDERS: tuple[Callable[[Evidence], Cause | None], ...] = (
    other_rule,
    other_prompts,
    rounded_weights,
    cut_off,
    other_context,
    bonus_counted,
    other_length,
    other_temperature,
)


def _proposed_share(evidence: Evidence) -> float:
    """Proposed tokens by round over the predicted ones; by emitted token where rounds are not counted; else NaN."""
    totals, rounds = evidence.measurement.totals, evidence.prediction.rounds.values()
    if totals.proposed is None:
        return math.nan
    if totals.rounds:
        return totals.proposed / totals.rounds / _per_round(evidence.prediction)
    # without rounds: those that the answers' tokens leave for the target after the accepted ones
    forwards = _forwards(totals)
    expected = sum(text.proposed for text in rounds) / sum(text.rounds for text in rounds)
    return totals.proposed / forwards / expected if forwards else math.nan


def _forwards(totals: RoundTotals) -> int | None:
    """Tokens of the target's own after the first of each answer: at least as many as rounds, hardly more."""
    if totals.emitted is None or totals.accepted is None or totals.requests is None:
        return None
    return max(totals.emitted - totals.requests - totals.accepted, 0)


def _per_round(prediction: Prediction) -> float:
    texts = prediction.rounds.values()
    return sum(text.proposed for text in texts) / sum(text.rounds for text in texts)


def _values(figures: Sequence[Figure]) -> str:
    return ", ".join(f"{figure.title} {number(figure.predicted.value)}" for figure in figures)


__all__ = ["Cause", "Evidence", "ranked", "served_counts"]
