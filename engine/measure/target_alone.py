"""A target without a draft: how fast it decodes, by our plain loop and by Transformers' own `generate`, in turn.

measure/speed.parquet   timed answers
measure/summary.json    tokens a second with intervals over prompts, and the conditions
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.config.schema import MeasureSpec
from engine.errors import DraftbenchError
from engine.measure import speed
from engine.measure.load import LoadMeter
from engine.measure.speed_summary import speed_table
from engine.measure.statistics import Resampling, bootstrap_ratio
from engine.measure.suite import Measured, conditions, decode_settings
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.speed import ForwardSeconds, Speed
from engine.records.summary import Summary

WAYS = ("plain", "transformers")


def measure_target(
    target: LoadedModel, prompts: Sequence[Prompt], settings: MeasureSpec, *, progress: Progress = SILENT
) -> Measured:
    """Time plain decoding on the first `settings.speed_prompts` prompts, `settings.speed_tokens` of each.

    There is no acceptance and no certificate: those are of a draft. Raises DraftbenchError if nothing is to be timed.
    """
    timed_prompts = prompts[: settings.speed_prompts]
    if not timed_prompts:
        raise DraftbenchError(
            "measure.speed_prompts is 0 and there is no draft",
            "speed is all that can be measured of a target alone",
            "set measure.speed_prompts, or name a draft",
        )
    meter = LoadMeter()
    timed = speed.time_ways(
        target.model,
        None,
        _rendered(target, timed_prompts, settings),
        decode_settings(
            settings.model_copy(update={"max_new_tokens": settings.speed_tokens, "adaptive": False}),
            settings.speed_temperature,
            frozenset(),
            0.0,
        ),
        ways=WAYS,
        progress=progress,
    )
    load = meter.read()
    resampling = Resampling(samples=settings.bootstrap_samples, seed=settings.seed)
    ways = {way: [answer for answer in timed if answer.way == way] for way in WAYS}
    plain = [one.verify_s for answer in ways["plain"] for one in answer.rounds[1:]]
    summary = Summary(
        subject="target alone",
        conditions=conditions(target, settings, timed_prompts),
        speed=Speed(
            temperature=settings.speed_temperature,
            threads=speed.threads(),
            load=load,
            tokens_per_s={
                way: bootstrap_ratio([t.tokens for t in of], [t.seconds for t in of], **resampling)
                for way, of in ways.items()
            },
            forward_s=ForwardSeconds(plain_s=statistics.median(plain)) if plain else ForwardSeconds(),
        ),
    )
    return Measured(summary, {"speed": speed_table(timed)})


def _rendered(target: LoadedModel, prompts: Sequence[Prompt], settings: MeasureSpec) -> Mapping[str, Sequence[int]]:
    """Token ids of the prompts by their ids; refused like those of a capture where an answer does not fit."""
    return {
        prompt.id: render(
            target.tokenizer,
            prompt,
            context_tokens=target.context_tokens,
            max_new_tokens=settings.speed_tokens,
            rows=target.vocab_rows,
        )
        for prompt in prompts
    }
