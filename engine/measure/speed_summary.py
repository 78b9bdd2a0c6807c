"""What a timing says: tokens a second, the speed-up with its interval, and what the cost model makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from engine.config.schema import MeasureSpec
from engine.measure import cost_model, speed
from engine.measure.statistics import Resampling, bootstrap_ratio, paired_ratio
from engine.records.interval import Interval
from engine.records.speed import BreakEven, MachineLoad, PredictedSpeedup, Speed

_MOST_GAMMA = 8  # of the table


def speed_table(timed: Sequence[speed.TimedAnswer]) -> pd.DataFrame:
    """A row per timed answer."""
    return pd.DataFrame(
        [{"prompt_id": t.prompt_id, "way": t.way, "tokens": t.tokens, "seconds": t.seconds} for t in timed]
    )


def speed_summary(
    timed: Sequence[speed.TimedAnswer],
    alpha: float,
    alpha_temperature: float,
    load: MachineLoad | None,
    settings: MeasureSpec,
    resampling: Resampling,
) -> Speed:
    """The timing of all ways.

    `alpha`: per_examined acceptance at `alpha_temperature`, from which the cost model predicts the speed-up at one
    gamma. Where gamma adapted, no one gamma was timed, and no prediction can be set beside the timing.
    """
    ways = {way: [t for t in timed if t.way == way] for way in speed.WAYS}
    seconds = {way: [t.seconds for t in answers] for way, answers in ways.items()}
    tokens = {way: [t.tokens for t in answers] for way, answers in ways.items()}
    gamma = settings.num_draft_tokens
    times = speed.forward_times(timed, gamma)
    c = times.cost_ratio
    slope = (times.verify_s - times.plain_s) / gamma  # a verify pass grows about linearly with its rows

    def faster_than(way: str) -> Interval:
        """Tokens a second of speculative decoding over those of another way, paired by prompt."""
        return paired_ratio(tokens[way], seconds[way], tokens["speculative"], seconds["speculative"], **resampling)

    return Speed(
        temperature=settings.speed_temperature,
        threads=speed.threads(),
        load=load,
        tokens_per_s={way: bootstrap_ratio(tokens[way], seconds[way], **resampling) for way in ways},
        speedup=faster_than("plain"),
        speedup_over_transformers=faster_than("transformers"),
        forward_s=times.model_copy(update={"num_draft_tokens": None}) if settings.adaptive else times,
        time_split=speed.time_split(timed),
        cost_ratio=c,
        alpha=alpha,
        alpha_temperature=alpha_temperature,
        predicted_speedup=PredictedSpeedup()
        if settings.adaptive
        else PredictedSpeedup(
            formula=cost_model.expected_speedup(alpha, gamma, c),
            measured_times=cost_model.measured_speedup(
                alpha, gamma, times.plain_s, times.draft_s, times.verify_s, times.overhead_s
            ),
        ),
        best_gamma=cost_model.best_gamma(alpha, c),
        break_even_alpha=BreakEven(
            some_gamma=cost_model.break_even_alpha(c), this_gamma=cost_model.break_even_alpha(c, gamma)
        ),
        by_gamma=cost_model.speedup_table(
            alpha,
            _MOST_GAMMA,
            plain_s=times.plain_s,
            draft_s=times.draft_s,
            verify_s=lambda g: max(0.0, times.plain_s + slope * g),
            overhead_s=times.overhead_s,
        ),
    )
