"""What tuning changed: perplexity on held-out references, and the rate of valid function calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from engine.capture.generate import answer_prompts
from engine.capture.grouping import group_by_length
from engine.capture.signal import signal_format
from engine.decode.sampling import Sampling
from engine.measure.statistics import Interval, bootstrap_ratio
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.tune.examples import Encoded
from engine.tune.function_calls import Judgement, is_calls, judge
from engine.tune.recipe import TuneMeasure, TuneRecipe
from engine.tune.training import reference_losses

_SHOWN_ANSWERS = 3


def figures(
    loaded: LoadedModel, heldout: Sequence[Encoded], recipe: TuneRecipe, progress: Progress = SILENT
) -> dict[str, Any]:
    """All figures of a model, by name, fit for JSON."""
    settings = recipe.measure
    found: dict[str, Any] = {"perplexity": perplexity(loaded.model, heldout[: settings.records], recipe, progress)}
    if settings.function_calls:
        found["function_calls"] = function_calls(loaded, callable_records(heldout, settings), settings, progress)
    return found


@torch.no_grad()
def perplexity(
    model: Any, heldout: Sequence[Encoded], recipe: TuneRecipe, progress: Progress = SILENT
) -> dict[str, float | int]:
    """exp of the mean -log probability of a reference token, with a bootstrap interval over prompts."""
    groups = group_by_length([row.tokens for row in heldout], recipe.train.micro_batch_tokens)
    sums, counts = [0.0] * len(heldout), [0] * len(heldout)
    progress.start("perplexity", len(heldout), "records")
    for group in groups:
        for index, losses in zip(group, reference_losses(model, [heldout[i] for i in group]), strict=True):
            sums[index], counts[index] = float(losses.double().sum()), len(losses)
        progress.advance(len(group))
        progress.stop_if_asked()
    progress.finish()
    settings = recipe.measure
    mean = bootstrap_ratio(sums, counts, samples=settings.bootstrap_samples, seed=settings.seed)
    ends = {name: math.exp(getattr(mean, name)) for name in ("value", "low", "high")}
    return {**Interval(n_prompts=mean.n_prompts, **ends).as_dict(), "n_tokens": sum(counts)}


def callable_records(heldout: Sequence[Encoded], settings: TuneMeasure) -> list[Encoded]:
    """The first records that offer tools and whose reference consists of calls."""
    fit = [row for row in heldout if row.example.prompt.tools and is_calls(row.example.reference)]
    return fit[: settings.call_records]


def function_calls(
    loaded: LoadedModel, records: Sequence[Encoded], settings: TuneMeasure, progress: Progress = SILENT
) -> dict[str, Any]:
    """Rates of valid calls, of the reference's names and of its arguments, greedy; why answers were invalid."""
    answers = _answers(loaded, records, settings, progress)
    judged = [
        judge(answer, row.example.prompt.tools, row.example.reference)
        for answer, row in zip(answers, records, strict=True)
    ]
    reasons = Counter(judgement.reason for judgement in judged if not judgement.valid)
    return {
        "valid": _rate([j.valid for j in judged], settings),
        "fits_schema": _rate([j.valid and not j.misfit for j in judged], settings),
        "names_match": _rate([j.names_match for j in judged], settings),
        "arguments_match": _rate([j.valid and j.arguments_match for j in judged], settings),
        "invalid_because": dict(reasons.most_common()),
        "examples": _samples(records, answers, judged),
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
