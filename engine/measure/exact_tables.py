"""Exact acceptance of some prompts as metrics with intervals, and as rows of the measurement's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from engine.measure.acceptance import PromptAcceptance
from engine.measure.compare import answer_hash
from engine.measure.statistics import Resampling, bootstrap_ratio, paired_difference
from engine.records.interval import Interval
from engine.records.summary import Improvement, Metric


def exact_metrics(
    results: Sequence[PromptAcceptance], draft: str, temperature: float, resampling: Resampling
) -> list[Metric]:
    """Exact acceptance, argmax acceptance, and greedy agreement where it is known, with intervals over prompts."""
    lengths = [len(r.token_ids) for r in results]
    sums: dict[str, list[float]] = {name: _sums(results, name) for name in ("exact", "argmax")}
    agreed = [r.agree for r in results if r.agree is not None]
    if len(agreed) == len(results):
        sums["greedy_agreement"] = [int(agree.sum()) for agree in agreed]
    return [
        metric_of(draft, temperature, name, bootstrap_ratio(tops, lengths, **resampling), sum(lengths))
        for name, tops in sums.items()
    ]


def metric_of(draft: str, temperature: float, name: str, interval: Interval, n_tokens: int) -> Metric:
    """A rate as the summary has it."""
    return Metric(
        draft=draft,
        temperature=temperature,
        metric=name,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n_prompts=interval.n_prompts,
        n_tokens=n_tokens,
    )


def improvements(
    before: Sequence[PromptAcceptance], after: Sequence[PromptAcceptance], temperature: float, resampling: Resampling
) -> list[Improvement]:
    """Exact and argmax acceptance after training less before, paired on the same tokens."""
    lengths = [len(r.token_ids) for r in before]
    rows = []
    for name in ("exact", "argmax"):
        sums = [_sums(results, name) for results in (before, after)]
        change = paired_difference(sums[0], lengths, sums[1], lengths, **resampling)
        rows.append(
            Improvement(
                temperature=temperature,
                metric=name,
                value=change.value,
                low=change.low,
                high=change.high,
                n_prompts=change.n_prompts,
            )
        )
    return rows


def _sums(results: Sequence[PromptAcceptance], rate: Literal["exact", "argmax"]) -> list[float]:
    """The expected acceptance of each prompt, added up over its positions."""
    return [float((r.overlap if rate == "exact" else r.argmax_prob).double().sum()) for r in results]


def position_rows(results: Sequence[PromptAcceptance], draft: str, temperature: float) -> pd.DataFrame:
    """A row per token of the text."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "draft": draft,
                    "temperature": temperature,
                    "prompt_id": r.prompt_id,
                    "position": r.positions or range(len(r.token_ids)),
                    "token_id": r.token_ids,
                    **({} if r.entropy is None else {"entropy": r.entropy.numpy()}),
                    "overlap": r.overlap.numpy(),
                    "agree": pd.array(
                        [None] * len(r.token_ids) if r.agree is None else r.agree.tolist(), dtype="boolean"
                    ),
                    "p": r.target_prob.numpy(),
                    "q": r.draft_prob.numpy(),
                    "argmax_prob": r.argmax_prob.numpy(),
                    "hit": r.hit.numpy(),
                }
            )
            for r in results
        ],
        ignore_index=True,
    )


def prompt_table(
    results: Sequence[PromptAcceptance],
    traced: pd.DataFrame | None,
    draft: str,
    temperature: float,
    texts: Mapping[str, str],
) -> pd.DataFrame:
    """A row per prompt: sums of expected acceptance, and its counts in the sampled trace if it was decoded."""
    table = pd.DataFrame(
        {
            "draft": draft,
            "temperature": temperature,
            "prompt_id": r.prompt_id,
            "group": r.group,
            "text": texts.get(r.prompt_id),
            "answer": answer_hash(r.positions or range(len(r.token_ids)), r.token_ids),
            "exact_sum": exact_sum,
            "argmax_sum": argmax_sum,
            "agree_sum": None if r.agree is None else int(r.agree.sum()),
            "n_positions": len(r.token_ids),
            "prompt_tokens": r.prompt_tokens,
        }
        for r, exact_sum, argmax_sum in zip(results, _sums(results, "exact"), _sums(results, "argmax"), strict=True)
    )
    empty = pd.DataFrame(columns=["prompt_id", "rounds", "drafted", "accepted", "rejected", "discarded", "emitted"])
    counts = empty if traced is None else traced
    merged = table.merge(counts, on="prompt_id", how="left")
    whole = [c for c in empty.columns if c != "prompt_id"]
    whole += ["agree_sum", "prompt_tokens"]
    merged[whole] = merged[whole].astype("Int64")
    return merged
