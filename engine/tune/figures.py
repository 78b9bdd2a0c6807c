"""Figures before and after tuning: perplexity on held-out references, and the rate of valid function calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from engine.capture.generate import answer_prompts
from engine.capture.grouping import group_by_length
from engine.capture.signal import signal_format
from engine.decode.sampling import Sampling
from engine.measure.statistics import bootstrap_ratio, paired_difference
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.interval import Interval
from engine.tune.examples import Encoded
from engine.tune.function_calls import Judgement, is_calls, judge
from engine.tune.recipe import TuneMeasure, TuneRecipe
from engine.tune.training import reference_losses

_SHOWN_ANSWERS = 3
RATES: dict[str, Callable[[Judgement], bool]] = {
    "valid": lambda judgement: judgement.valid,
    "fits_schema": lambda judgement: judgement.valid and not judgement.misfit,
    "names_match": lambda judgement: judgement.names_match,
    "arguments_match": lambda judgement: judgement.valid and judgement.arguments_match,
}


@dataclass(frozen=True)
class Observed:
    """The results of one model on the held-out records, record by record, so that two models can be paired.

    `losses`: sum of -log probability over each record's reference; `tokens`: how many those are.
    `judged`, `answers`: of the records that are to be answered with calls, empty if none were asked for.
    """

    losses: list[float]
    tokens: list[int]
    called: list[Encoded] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    judged: list[Judgement] = field(default_factory=list)

    def outcomes(self, rate: str) -> list[bool]:
        """Whether each answer counts for a rate of RATES."""
        return [RATES[rate](judgement) for judgement in self.judged]


def observe(
    loaded: LoadedModel, heldout: Sequence[Encoded], recipe: TuneRecipe, progress: Progress = SILENT
) -> Observed:
    """Score the references and, if the recipe says so, let the model answer."""
    settings = recipe.measure
    losses, tokens = _losses(loaded.model, heldout[: settings.records], recipe, progress)
    if not settings.function_calls:
        return Observed(losses, tokens)
    called = callable_records(heldout, settings)
    answers = _answers(loaded, called, settings, progress)
    judged = [
        judge(answer, row.example.prompt.tools, row.example.reference)
        for answer, row in zip(answers, called, strict=True)
    ]
    return Observed(losses, tokens, called, answers, judged)


def figures(seen: Observed, settings: TuneMeasure) -> dict[str, Any]:
    """All figures of one model, by name, fit for JSON."""
    calls = {"function_calls": function_calls(seen, settings)} if settings.function_calls else {}
    return {"perplexity": perplexity(seen, settings), **calls}


def differences(before: Observed, after: Observed, settings: TuneMeasure) -> dict[str, Any]:
    """After minus before on the same records, with intervals that leave out what the records have in common.

    `logprob_per_token`: mean log probability of a reference token, in nats; exp of its negative is the
    factor by which perplexity changed. `function_calls`: each rate of RATES.
    """
    paired = partial(paired_difference, samples=settings.bootstrap_samples, seed=settings.seed)
    old, new = ([-loss for loss in seen.losses] for seen in (before, after))
    intervals: dict[str, Any] = {"logprob_per_token": paired(old, before.tokens, new, after.tokens).as_dict()}
    if settings.function_calls:
        ones = [1] * len(before.judged)
        intervals["function_calls"] = {
            rate: paired(before.outcomes(rate), ones, after.outcomes(rate), ones).as_dict() for rate in RATES
        }
    return intervals


def perplexity(seen: Observed, settings: TuneMeasure) -> dict[str, float | int]:
    """exp of the mean -log probability of a reference token, with a bootstrap interval over prompts."""
    mean = bootstrap_ratio(seen.losses, seen.tokens, samples=settings.bootstrap_samples, seed=settings.seed)
    ends = {name: math.exp(getattr(mean, name)) for name in ("value", "low", "high")}
    return {**Interval(n_prompts=mean.n_prompts, **ends).as_dict(), "n_tokens": sum(seen.tokens)}


@torch.no_grad()
def _losses(
    model: Any, heldout: Sequence[Encoded], recipe: TuneRecipe, progress: Progress
) -> tuple[list[float], list[int]]:
    """For each record, the sum of -log probability over its reference's tokens, and their number."""
    groups = group_by_length([row.tokens for row in heldout], recipe.train.micro_batch_tokens)
    sums, counts = [0.0] * len(heldout), [0] * len(heldout)
    progress.start("perplexity", len(heldout), "records")
    for group in groups:
        for index, losses in zip(group, reference_losses(model, [heldout[i] for i in group]), strict=True):
            sums[index], counts[index] = float(losses.double().sum()), len(losses)
        progress.advance(len(group))
        progress.stop_if_asked()
    progress.finish()
    return sums, counts


def callable_records(heldout: Sequence[Encoded], settings: TuneMeasure) -> list[Encoded]:
    """The first records that offer tools and whose reference consists of calls."""
    fit = [row for row in heldout if row.example.prompt.tools and is_calls(row.example.reference)]
    return fit[: settings.call_records]


def function_calls(seen: Observed, settings: TuneMeasure) -> dict[str, Any]:
    """Rates of valid calls, of the reference's names and of its arguments, greedy; why answers were invalid."""
    reasons = Counter(judgement.reason for judgement in seen.judged if not judgement.valid)
    return {
        **{rate: _rate(seen.outcomes(rate), settings) for rate in RATES},
        "invalid_because": dict(reasons.most_common()),
        "examples": _samples(seen.called, seen.answers, seen.judged),
    }


def _rate(outcomes: Sequence[bool], settings: TuneMeasure) -> dict[str, float | int]:
    ones = [1] * len(outcomes)
    return bootstrap_ratio(outcomes, ones, samples=settings.bootstrap_samples, seed=settings.seed).as_dict()


def _answers(loaded: LoadedModel, records: Sequence[Encoded], settings: TuneMeasure, progress: Progress) -> list[str]:
    """The greedy answer to each record, in order, without the end-of-turn token."""
    progress.start("answers", len(records), "answers")
    written = [""] * len(records)
    for answer in answer_prompts(
        loaded.model,
        [row.prompt_ids for row in records],
        [row.example.prompt.id for row in records],
        Sampling(0.0),
        max_new_tokens=settings.max_new_tokens,
        stop_ids=loaded.stop_ids,
        seed=settings.seed,
        batch_size=settings.batch_size,
        signal=signal_format("none", loaded.model, 1),
        before_forward=progress.stop_if_asked,
    ):
        ids = [token for token in answer.token_ids if token not in loaded.stop_ids]
        written[answer.index] = str(loaded.tokenizer.decode(ids))
        progress.advance(1)
    progress.finish()
    return written


def _samples(records: Sequence[Encoded], answers: Sequence[str], judged: Sequence[Judgement]) -> list[dict[str, str]]:
    """The first few answers as they are; of the record only its id, since a target's folder may be given away."""
    return [
        {"record": row.example.prompt.id, "answer": answer, "invalid_because": judgement.reason}
        for row, answer, judgement in list(zip(records, answers, judged, strict=True))[:_SHOWN_ANSWERS]
    ]
