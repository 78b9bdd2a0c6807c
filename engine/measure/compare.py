"""The paired comparison of two drafts, and a plain "no" where they may not be compared.

`draftbench compare`, the Compare page, the modes of a study and the findings all come here. Two measurements are paired
on the prompts that the target answered with the same tokens (`same_answers`), and a rate is compared only where nothing
differs that it depends on (`differing_conditions`, `blocking`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.errors import DraftbenchError, boundary
from engine.measure.definitions import RATES, Rate
from engine.measure.statistics import SAMPLES, McNemar, bootstrap_ratio, mcnemar, paired_difference
from engine.records.interval import Interval
from engine.records.summary import Conditions

# What must be equal before two rates mean the same thing. Prompts may differ if some are common.
MUST_MATCH = (
    "num_draft_tokens",
    "adaptive",
    "proposals",
    "top_p",
    "top_k",
    "dtype",
    "quantize",
    "device",
    "acceptance_rule",
    "served_by",
)
ONLY_SAMPLED = (
    "num_draft_tokens",
    "adaptive",
    "proposals",
)  # these leave the rates on the target's own text as they are
_CHOSEN = (*ONLY_SAMPLED, "top_p", "top_k")  # keys of `measure`
_OF_THE_RUN = ("dtype", "quantize", "device")  # keys of `target`
ON_TARGET_TEXT = ("exact", "argmax", "greedy_agreement")
SAME_TEMPERATURE = 1e-6  # temperatures closer than this are one: 0.7 may have been stored as float32

MOST_SAMPLES = 20_000  # resamples of a comparison: the recipe of a stranger's run may ask for gigabytes of them

_TABLES_KEPT = 512  # per-prompt tables kept in memory: a study has some hundred runs


# ---- the same answer ------------------------------------------------------------------------


def answer_hash(positions: Iterable[int], token_ids: Iterable[int]) -> str:
    """32 hex digits that are equal for equal answers: the measured token ids and their positions in the answer.

    A measurement writes it into `prompts.parquet` as `answer`. Of a measurement that an earlier version made it is
    computed from `positions.parquet`: here for a folder, and in SQL by `engine.index.rows` for the index.
    """
    text = " ".join(f"{position}:{token_id}" for position, token_id in zip(positions, token_ids, strict=True))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def same_answers(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the prompts that both have and that the target answered with the same tokens in both, in a's order.

    `a`, `b`: indexed by prompt id, with `n_positions` and `answer` (see `answer_hash`). Where the hash of either is
    missing, an answer of the same length counts as the same; answers cut at the limit share their length.
    """
    if not (len(a) and len(b)):
        return a.iloc[:0], b.iloc[:0]
    if not a.index.equals(b.index):
        common = a.index.intersection(b.index)
        a, b = a.loc[common], b.loc[common]
    unknown = a.answer.isna().to_numpy() | b.answer.isna().to_numpy()
    same = (a.n_positions.to_numpy() == b.n_positions.to_numpy()) & (
        unknown | (a.answer.fillna("").to_numpy() == b.answer.fillna("").to_numpy())
    )
    return (a, b) if same.all() else (a[same], b[same])


# ---- sums and pairs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """One rate of one draft before the division: for each prompt what is counted, and what it is a share of."""

    prompts: pd.Index
    numerators: NDArray[np.float64]  # [prompt]
    denominators: NDArray[np.float64]  # [prompt]

    @classmethod
    def of(cls, table: pd.DataFrame, rate: Rate) -> Sums:
        """The sums of a rate in a table indexed by prompt id; NaN where a prompt was not measured for it."""
        columns = {
            name: table[name].to_numpy(np.float64, na_value=np.nan) if name in table else np.full(len(table), np.nan)
            for name in (rate.numerator, *rate.denominator)  # an earlier version did not count all of them
        }
        denominators = np.sum([columns[name] for name in rate.denominator], axis=0)
        return cls(table.index, columns[rate.numerator], denominators)

    def __getitem__(self, rows: NDArray[np.bool_]) -> Sums:
        return Sums(self.prompts[rows], self.numerators[rows], self.denominators[rows])

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """[prompt]: whether the prompt was measured for this rate."""
        known: NDArray[np.bool_] = np.isfinite(self.numerators) & np.isfinite(self.denominators)
        return known

    @property
    def rate(self) -> float:
        """The rate over all prompts, a ratio of sums; NaN if there is nothing to divide by."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(self.numerators.sum() / self.denominators.sum())


@dataclass(frozen=True)
class Paired:
    """One rate of two drafts on the same prompts, in the same order, whose answers are the same."""

    a: Sums
    b: Sums

    def difference(self, samples: int = SAMPLES) -> Interval:
        """Rate of b less rate of a with its interval, prompts resampled for both at once."""
        sides = (self.a.numerators, self.a.denominators, self.b.numerators, self.b.denominators)
        return paired_difference(*sides, samples=samples)


def paired(a: pd.DataFrame, b: pd.DataFrame, rate: str) -> Paired | None:
    """One rate of two drafts on the prompts with the same answer that were measured for it; None if there is none.

    `a`, `b`: the sums of each draft at one temperature, indexed by prompt id (see `Measurement`). The prompts are in
    the order of their ids: an interval depends on it, and files and index hold them in different ones.
    """
    a, b = (side.sort_index() for side in same_answers(a, b))
    sums_a, sums_b = Sums.of(a, RATES[rate]), Sums.of(b, RATES[rate])
    measured = sums_a.measured & sums_b.measured
    return Paired(sums_a[measured], sums_b[measured]) if measured.any() else None


def rate_interval(table: pd.DataFrame, rate: str) -> tuple[Interval, float]:
    """A rate over the prompts of a table that were measured for it, with its interval; and its denominator's sum."""
    sums = Sums.of(table, RATES[rate])
    sums = sums[sums.measured]
    return bootstrap_ratio(sums.numerators, sums.denominators), float(sums.denominators.sum())


# ---- two measurements -----------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """What a comparison needs of a measured draft.

    `prompts`: a row per temperature and held-out prompt with `temperature`, `prompt_id`, `answer` and the sums that
    the rates are ratios of. `bootstrap_samples`: `measure.bootstrap_samples` of its recipe.
    """

    prompts: pd.DataFrame
    conditions: Conditions
    bootstrap_samples: int = SAMPLES

    @classmethod
    def read(cls, folder: Path, conditions: Conditions, bootstrap_samples: int = SAMPLES) -> Measurement:
        """The measurement of a run's `measure` folder. Raises DraftbenchError if a table is missing or damaged."""
        return cls(prompt_sums(folder), conditions, bootstrap_samples)

    @property
    def temperatures(self) -> list[float]:
        return sorted({float(temperature) for temperature in self.prompts.temperature})

    def at(self, temperature: float) -> pd.DataFrame:
        """The sums at one temperature, indexed by prompt id."""
        near = (self.prompts.temperature - temperature).abs() < SAME_TEMPERATURE
        return self.prompts[near].set_index("prompt_id")


@dataclass(frozen=True)
class RateDifference:
    """One rate of two drafts at one temperature, on the same prompts."""

    temperature: float
    metric: str
    a: float
    b: float
    difference: Interval  # b less a
    blocked_by: tuple[str, ...] = ()  # conditions that differ and forbid comparing

    @property
    def comparable(self) -> bool:
        return not self.blocked_by

    @property
    def reason(self) -> str | None:
        """Why the two may not be compared; None if they may."""
        return f"{', '.join(self.blocked_by)} differ" if self.blocked_by else None

    def as_dict(self) -> dict[str, Any]:
        """A row of `draftbench compare --json`."""
        return {
            "temperature": self.temperature,
            "metric": self.metric,
            "a": self.a,
            "b": self.b,
            "difference": self.difference.as_dict(),
            "comparable": self.comparable,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Comparability:
    """Which rates of two drafts may be compared: `rates`, and why others may not: reason -> rates."""

    rates: tuple[str, ...]
    reasons: dict[str, tuple[str, ...]]

    @property
    def word(self) -> str:
        """'comparable', 'partly comparable' or 'not comparable'."""
        return "comparable" if not self.reasons else "partly comparable" if self.rates else "not comparable"

    def as_dict(self) -> dict[str, Any]:
        """As part of `draftbench compare --json`."""
        return {
            "comparable": self.word,
            "rates": list(self.rates),
            "not": {why: list(rates) for why, rates in self.reasons.items()},
        }


def comparability(rows: Iterable[tuple[str, str]]) -> Comparability:
    """From (rate, why it may not be compared), with '' where it may, of one or more temperatures."""
    rows = list(rows)
    reasons = list(dict.fromkeys(why for _, why in rows if why))
    return Comparability(
        tuple(dict.fromkeys(rate for rate, why in rows if not why)),
        {reason: tuple(dict.fromkeys(rate for rate, why in rows if why == reason)) for reason in reasons},
    )


def compare(a: Measurement, b: Measurement, rates: Iterable[str] = tuple(RATES)) -> list[RateDifference]:
    """Rate of b less rate of a: each rate at each temperature that both were measured at.

    Rates without a prompt in common are left out; the list is empty if the two have no answer in common.
    """
    differing = differing_conditions(a.conditions, b.conditions)
    samples = min(max(a.bootstrap_samples, b.bootstrap_samples), MOST_SAMPLES)
    rows = []
    for temperature in a.temperatures:
        side_a, side_b = a.at(temperature), b.at(temperature)
        for rate in rates:
            pair = paired(side_a, side_b, rate)
            if pair is not None:
                blocked_by = tuple(blocking(rate, differing))
                values = (pair.a.rate, pair.b.rate, pair.difference(samples))
                rows.append(RateDifference(temperature, rate, *values, blocked_by))
    return rows


def differing_conditions(a: Conditions, b: Conditions) -> dict[str, tuple[Any, Any]]:
    """Conditions that differ between two measurements and matter for comparing them: name -> value of a and of b."""
    values_a, values_b = ({"proposals": own.proposals, **own.document()} for own in (a, b))  # not written before
    values = {key: (values_a.get(key), values_b.get(key)) for key in MUST_MATCH}
    return {key: (one, other) for key, (one, other) in values.items() if one != other}


def blocking(rate: str, differing: Iterable[str]) -> list[str]:
    """Those of the differing conditions that forbid comparing this rate."""
    return [key for key in differing if rate not in ON_TARGET_TEXT or key not in ONLY_SAMPLED]


def remedy(differing: Iterable[str]) -> str:
    """What makes two measurements alike that differ in these conditions: sentences. Some are chosen by a measurement,
    others come with the run."""
    keys, sentences = set(differing), []
    if chosen := [key for key in _CHOSEN if key in keys]:
        settings = " ".join(f"--set measure.{key}=VALUE" for key in chosen)
        sentences.append(f"`draftbench measure RUN {settings}` measures a run again under equal conditions.")
    if keys & {"acceptance_rule", "served_by"}:
        sentences.append(
            "`draftbench measure RUN --set measure.against=model` (or server) measures one like the other."
        )
    if own := [key for key in _OF_THE_RUN if key in keys]:
        names = " and ".join(f"target.{key}" for key in own)
        sentences.append(f"A measurement keeps its run's {names}: run the recipe again with the other one's.")
    return " ".join(sentences)


def not_measured(table: pd.DataFrame) -> list[str]:
    """The rates on the target's own text that a table of sums lacks because an earlier version made it.

    Greedy agreement is no such rate: of text that a server drew it cannot be known.
    """
    return [name for name in ("exact", "argmax") if not Sums.of(table, RATES[name]).measured.any()]


def nothing_in_common() -> DraftbenchError:
    """The error for two measurements without an answer in common."""
    return DraftbenchError(
        "the two runs have no held-out answer in common",
        "a paired comparison needs the same target text under both drafts",
        "measure both with the same target, held-out prompts, temperatures and seed",
    )


def agreement(a: pd.DataFrame, b: pd.DataFrame, prompts: pd.Index) -> McNemar | None:
    """McNemar's counts of greedy agreement on some prompts, token by token; None where it is not known of both.

    `a`, `b`: a row per token with `prompt_id`, `position` and `agree`, of one temperature.
    """
    tokens = a[a.prompt_id.isin(prompts)].merge(b, on=["prompt_id", "position"], suffixes=("_a", "_b"))
    tokens = tokens.dropna(subset=["agree_a", "agree_b"])  # not known of text that a server drew
    if tokens.empty:
        return None
    a_agrees, b_agrees = tokens.agree_a.astype(bool), tokens.agree_b.astype(bool)
    return mcnemar(
        int((a_agrees & b_agrees).sum()),
        int((a_agrees & ~b_agrees).sum()),
        int((~a_agrees & b_agrees).sum()),
        int((~a_agrees & ~b_agrees).sum()),
    )


def agreement_by_temperature(folder_a: Path, folder_b: Path) -> list[dict[str, Any]]:
    """`agreement` of two runs' `measure` folders at each temperature of both, as rows of `draftbench compare`."""
    a, b = prompt_sums(folder_a), prompt_sums(folder_b)
    positions_a, positions_b = _positions(folder_a), _positions(folder_b)
    rows = []
    for temperature in sorted(set(a.temperature) & set(b.temperature)):
        sides = [side[side.temperature == temperature].set_index("prompt_id") for side in (a, b)]
        tokens_a, tokens_b = (side[side.temperature == temperature] for side in (positions_a, positions_b))
        counts = agreement(tokens_a, tokens_b, same_answers(*sides)[0].index)
        if counts is not None:
            rows.append({"temperature": float(temperature), **counts.as_dict()})
    return rows


# ---- tables of a run's `measure` folder -----------------------------------------------------


def prompt_sums(folder: Path) -> pd.DataFrame:
    """The sums per temperature and prompt of the trained draft, with `answer`. Shared between callers: do not change.

    A measurement of an earlier version has no `answer`: it is computed from the tokens in `positions.parquet`.
    Raises DraftbenchError for a table that is missing or damaged.
    """
    path = folder / "prompts.parquet"
    with boundary(f"{path} cannot be read", "measure the run again, or restore the file"):
        changed_ns = path.stat().st_mtime_ns
    return _prompt_sums(folder, changed_ns)


@lru_cache(maxsize=_TABLES_KEPT)
def _prompt_sums(folder: Path, changed_ns: int) -> pd.DataFrame:
    table = _trained(folder / "prompts.parquet")
    if "answer" in table:
        return table
    tokens = _positions(folder).sort_values(["temperature", "prompt_id", "position"])
    starts = np.flatnonzero(
        (tokens.prompt_id.ne(tokens.prompt_id.shift()) | tokens.temperature.diff().ne(0)).to_numpy()
    )
    positions, ids = tokens.position.tolist(), tokens.token_id.tolist()
    ends = [*starts[1:].tolist(), len(tokens)]
    answers = tokens.iloc[starts][["temperature", "prompt_id"]].assign(
        answer=[answer_hash(positions[i:j], ids[i:j]) for i, j in zip(starts.tolist(), ends, strict=True)]
    )
    return table.merge(answers, on=["temperature", "prompt_id"], how="left")


def _positions(folder: Path) -> pd.DataFrame:
    columns = ["draft", "temperature", "prompt_id", "position", "token_id", "agree"]
    return _trained(folder / "positions.parquet", columns)


def _trained(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    with boundary(f"{path} cannot be read", "measure the run again, or restore the file"):
        table = pd.read_parquet(path, columns=columns)
        return table[table.draft == "trained"].reset_index(drop=True)
