"""Per-prompt sums of acceptance of many runs, as the sides of comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import pandas as pd

from engine.findings.pairs import Side
from engine.findings.pooling import Sums

# (run, draft, temperature) -> [prompt] exact_sum, n_positions, text
Tables = Mapping[tuple[str, str, float], pd.DataFrame]
_SUMS = ["exact_sum", "n_positions"]
_ROUNDED = 1 + 1e-5  # a sum of float32 may be a little too large
_DIGITS = 6  # 0.7 may have been stored as float32


def tables_of(sums: pd.DataFrame) -> dict[tuple[str, str, float], pd.DataFrame]:
    """A table a run, draft and temperature. `sums`: run_id, draft, temperature, prompt_id, exact_sum, n_positions,
    and where known `text`, a hash of the answer's tokens (0: not known)."""
    rows = sums.dropna(subset=["exact_sum", "n_positions"])
    rows = rows[rows.n_positions > 0]
    # plain objects: an index of Arrow strings is many times slower to align
    plain = {"temperature": rows.temperature.round(_DIGITS), "prompt_id": rows.prompt_id.astype(object)}
    rows = (rows if "text" in rows else rows.assign(text=0)).assign(**plain).set_index("prompt_id")
    tables = {}
    for key, table in rows.groupby(["run_id", "draft", "temperature"]):
        run, draft, temperature = cast("tuple[str, str, float]", key)
        tables[str(run), str(draft), float(temperature)] = table[[*_SUMS, "text"]]
    return tables


def senseless(sums: pd.DataFrame) -> set[str]:
    """Ids of the runs with sums that no measurement makes: more accepted than there were positions, a prompt twice."""
    known = sums.dropna(subset=["exact_sum", "n_positions"])
    beyond = (known.exact_sum < 0) | (known.exact_sum > known.n_positions * _ROUNDED) | known.temperature.isna()
    twice = known.duplicated(["run_id", "draft", "temperature", "prompt_id"])
    return {str(run_id) for run_id in known.run_id[beyond | twice].unique()}


def temperatures_of(runs: Iterable[str], tables: Tables) -> list[float]:
    """Temperatures at which any of the runs was measured."""
    wanted = set(runs)
    return sorted({temperature for run, _, temperature in tables if run in wanted})


def side_of(side: Side, draft: str, temperature: float, tables: Tables) -> pd.DataFrame:
    """[prompt]: the side's sum of acceptances and its number of positions, for prompts that all its runs have."""
    merged: pd.DataFrame | None = None
    for run, sign in side:
        rows = tables.get((run, draft, temperature))
        if rows is None:
            return pd.DataFrame()
        rows = rows if sign == 1 else rows.assign(exact_sum=rows.exact_sum * sign)
        if merged is not None:
            merged, rows = same_text(merged, rows)
            rows = rows.assign(exact_sum=merged.exact_sum + rows.exact_sum)
        merged = rows
    return pd.DataFrame() if merged is None else merged


def same_text(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the prompts that both have, and that the target answered with the same tokens in both.

    Answers whose tokens are not known are told apart by their length, which many share: those cut at the limit.
    """
    if not (len(a) and len(b)):
        return a.iloc[:0], b.iloc[:0]
    if not a.index.equals(b.index):
        common = a.index.intersection(b.index)
        a, b = a.loc[common], b.loc[common]
    same = (a.n_positions == b.n_positions) & ((a.text == b.text) | (a.text == 0) | (b.text == 0))
    return (a, b) if same.all() else (a[same], b[same])


def seed_mean(sides: Sequence[Sums]) -> Sums:
    """Seeds averaged within each prompt: the sums of all over the number of seeds."""
    first = sides[0]
    if len(sides) == 1:  # the usual case, and grouping is slow
        return Sums(first.heldout, first.table[_SUMS].sort_index())
    table = pd.concat([side.table[_SUMS] for side in sides]).groupby(level=0).sum() / len(sides)
    return Sums(first.heldout, table)


def rate_of(table: pd.DataFrame) -> float:
    """Acceptance over all prompts: a ratio of sums."""
    return float(table.exact_sum.sum() / table.n_positions.sum())
