"""What a run measured, a row per token, with the slice that each token is in: read from its `measure` folder alone.

A rate on the target's own text has a row for each token of that text (`positions.parquet`). A sampled rate has a row
for each token of the trace (`tokens.parquet`), refused and discarded ones included: these belong to the place where
they were proposed, so they are in the slice of the token that the answer has there in the end. A target forward
belongs to the last token of its round, the one that it was needed for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.decode.events import EMITTED, PROPOSED, Fate
from engine.errors import DraftbenchError, boundary
from engine.measure.compare import ON_TARGET_TEXT, SAME_TEMPERATURE, prompt_sums
from engine.measure.definitions import RATES
from engine.paths import run_id_of
from engine.slices.categories import category_of

BY: dict[str, str] = {
    "kind": "kind of token: JSON structure, key, name, value, number, word, ...",
    "group": "group of the prompt",
    "category": "category of SPEED-Bench that the prompt's group fits",
    "position": "tokens of the answer before it",
    "context": "tokens of prompt and answer before it",
    "entropy": "entropy of the target at temperature 1, in nats",
    "prompt": "prompt",
}
"""What tokens can be sliced by."""

POSITIONS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
CONTEXTS = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
ENTROPIES = (0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
NO_GROUP = "(no group)"
PAST_THE_END = "past the end"  # proposed at a place that the answer does not have
# The column of positions.parquet that each numerator on the target's text adds up.
_TEXT_COLUMNS = {"exact_sum": "overlap", "agree_sum": "agree", "argmax_sum": "argmax_prob"}
_AGAIN = "`draftbench measure RUN` measures it again"

Kinds = Callable[[list[int]], tuple[str, ...]]
"""The kind of each token of an answer, from its ids."""


@dataclass(frozen=True)
class Origin:
    """What slicing needs of a run beside its tables. `kinds` is asked for only to slice by kind."""

    folder: Path
    """Its `measure` folder."""
    domain: str
    kinds: Callable[[], Kinds]


def measured_tokens(origin: Origin, rate: str, temperature: float, by: str) -> pd.DataFrame:
    """A row per token: `prompt_id`, `slice`, and the columns that the rate is a ratio of sums of.

    Raises DraftbenchError if the run has no such figures: an unknown name, a temperature that was not measured, or a
    column that an earlier version did not write.
    """
    if rate not in RATES:
        raise DraftbenchError(f"unknown rate {rate!r}", "", f"known: {', '.join(RATES)}")
    if by not in BY:
        raise DraftbenchError(f"slices by {by!r} are unknown", "", f"known: {', '.join(BY)}")
    columns = list(dict.fromkeys((RATES[rate].numerator, *RATES[rate].denominator)))
    with boundary(f"the tables in {origin.folder} cannot be sliced", _AGAIN, "a column is missing or of another type"):
        rows = _of_text(origin, rate, temperature) if rate in ON_TARGET_TEXT else _of_trace(origin, rate, temperature)
        return rows.assign(slice=_slices(origin, rows, rate, temperature, by))[["prompt_id", "slice", *columns]]


def measured_temperatures(folder: Path) -> list[float]:
    """Temperatures of a measurement, ascending."""
    return sorted({float(t) for t in prompt_sums(folder).temperature})


def _of_text(origin: Origin, rate: str, temperature: float) -> pd.DataFrame:
    """The tokens of the target's own text, in order. One whose value is not known counts as no position."""
    column = _TEXT_COLUMNS[RATES[rate].numerator]
    table = _table(origin.folder, "positions", temperature)
    if column not in table and abs(temperature) < SAME_TEMPERATURE:
        column = "overlap"  # at temperature 0 all rates on the target's text are one
    if column not in table or table[column].isna().all():
        raise DraftbenchError(
            f"the run's tokens have no {rate}",
            f"{origin.folder / 'positions.parquet'} has no values in the column {column}: an earlier version wrote it, "
            "or it was measured against a server's text",
            f"{_AGAIN}, or slice another --rate",
        )
    values = table[column].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    rows = table.assign(n_positions=np.isfinite(values).astype(float))
    rows[RATES[rate].numerator] = np.nan_to_num(values)
    order = pd.factorize(rows.prompt_id)[0]  # of the measurement, whose intervals depend on it
    return rows.assign(_order=order).sort_values(["_order", "position"]).drop(columns="_order").reset_index(drop=True)


def _of_trace(origin: Origin, rate: str, temperature: float) -> pd.DataFrame:
    """The tokens of the trace, in the order in which they were proposed or drawn."""
    if not (origin.folder / "tokens.parquet").is_file():
        raise DraftbenchError(
            f"the run has no {rate} by token",
            "sampled rates come from a trace, and none is stored: it was measured against a server, or without one",
            "slice --rate exact, which rests on all held-out prompts",
        )
    table = _table(origin.folder, "tokens", temperature)
    emitted = table.fate.isin({str(fate) for fate in EMITTED})
    last = table[emitted].groupby(["prompt_id", "round"]).position.transform("max")
    return table.assign(
        accepted=(table.fate == str(Fate.ACCEPTED)).astype(float),
        rejected=(table.fate == str(Fate.REJECTED)).astype(float),
        discarded=(table.fate == str(Fate.DISCARDED)).astype(float),
        drafted=table.fate.isin({str(fate) for fate in PROPOSED}).astype(float),
        emitted=emitted.astype(float),
        rounds=(emitted & (table.position == last.reindex(table.index))).astype(float),
    ).reset_index(drop=True)


def _table(folder: Path, name: str, temperature: float) -> pd.DataFrame:
    path = folder / f"{name}.parquet"
    with boundary(f"{path} cannot be read", "measure the run again, or restore the file"):
        table = pd.read_parquet(path)
        near = (table.temperature - temperature).abs() < SAME_TEMPERATURE
        rows = table[near & (table.draft == "trained")].reset_index(drop=True)
    if rows.empty:
        known = ", ".join(f"{t:g}" for t in measured_temperatures(folder))
        raise DraftbenchError(
            f"the run was not measured at temperature {temperature:g}", "", f"give --temperature, one of: {known}"
        )
    return rows.astype({"position": "int64", "token_id": "int64"})


def _slices(
    origin: Origin, rows: pd.DataFrame, rate: str, temperature: float, by: str
) -> pd.Series[str] | NDArray[np.str_]:
    """The slice of each row."""
    if by == "prompt":
        return rows.prompt_id
    if by == "position":
        return in_buckets(rows.position, POSITIONS)
    if by == "kind":
        return _kinds(origin.kinds(), rows)
    if by == "entropy":
        return _entropies(origin.folder, rows, rate)
    prompts = prompt_sums(origin.folder)
    prompts = prompts[(prompts.temperature - temperature).abs() < SAME_TEMPERATURE].set_index("prompt_id")
    if by == "context":
        return _contexts(origin.folder, rows, prompts)
    groups = prompts.group.fillna("").astype(str)
    if by == "category":
        groups = groups.map(lambda group: category_of(group, origin.domain))
    return rows.prompt_id.map(groups).replace("", NO_GROUP)


def _kinds(kinds: Kinds, rows: pd.DataFrame) -> pd.Series[str]:
    """The kind of the token that the answer has at each row's place."""
    text = rows[rows.emitted == 1] if "emitted" in rows else rows
    by_place: dict[tuple[str, int], str] = {}
    for prompt_id, answer in text.groupby("prompt_id", sort=False):
        places = answer.sort_values("position")
        names = kinds(places.token_id.tolist())
        by_place |= {(str(prompt_id), at): name for at, name in zip(places.position.tolist(), names, strict=True)}
    return _at_places(rows, by_place)


def _at_places(rows: pd.DataFrame, by_place: Mapping[tuple[str, int], str]) -> pd.Series[str]:
    places = zip(rows.prompt_id.tolist(), rows.position.tolist(), strict=True)
    return pd.Series([by_place.get(place, PAST_THE_END) for place in places], index=rows.index)


def _entropies(folder: Path, rows: pd.DataFrame, rate: str) -> NDArray[np.str_]:
    if rate not in ON_TARGET_TEXT:
        raise DraftbenchError(
            f"{rate} cannot be sliced by entropy",
            "the target's entropy is stored where it wrote its own text, and sampled rates come from other texts",
            f"give --rate, one of: {', '.join(ON_TARGET_TEXT)}",
        )
    if "entropy" not in rows or rows.entropy.isna().any():
        raise _lacks(folder, "positions.parquet has no column entropy", "the target's entropy")
    return in_buckets(rows.entropy, ENTROPIES)


def _contexts(folder: Path, rows: pd.DataFrame, prompts: pd.DataFrame) -> NDArray[np.str_]:
    if "prompt_tokens" not in prompts or prompts.prompt_tokens.isna().any():
        raise _lacks(folder, "prompts.parquet has no column prompt_tokens", "the length of the prompts")
    return in_buckets(rows.position + rows.prompt_id.map(prompts.prompt_tokens).astype(float), CONTEXTS)


def _lacks(folder: Path, why: str, what: str) -> DraftbenchError:
    run = run_id_of(folder.parent.name)
    return DraftbenchError(
        f"the measurement of run {run} does not hold {what}",
        f"{why}: an earlier version of Draftbench measured it",
        f"`draftbench measure {run}` measures it again (it needs the draft's weights), or slice by something else",
    )


def in_buckets(values: pd.Series[float], edges: tuple[float, ...]) -> NDArray[np.str_]:
    """The bucket of each value by name: '8 to 15' of whole numbers, '0.1 to 0.5' of others, 'from 8192' the last."""
    whole = all(float(edge).is_integer() and isinstance(edge, int) for edge in edges)
    names = [f"{low:g} to {high - 1 if whole else high:g}" for low, high in itertools.pairwise(edges)]
    names.append(f"from {edges[-1]:g}")
    places = np.searchsorted(np.asarray(edges), values.to_numpy(np.float64), side="right") - 1
    return np.asarray(names)[np.clip(places, 0, len(names) - 1)]


def order_of(by: str, names: list[str]) -> list[str]:
    """The slices in their natural order: buckets ascending, all others as they are."""
    return sorted(names, key=_begins) if by in ("position", "context", "entropy") else names


def _begins(name: str) -> float:
    return float(name.removeprefix("from ").split(" ")[0])
