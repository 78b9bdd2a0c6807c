"""Two measured drafts side by side: paired where they may be, and a plain 'no' where they may not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from engine.errors import DraftbenchError, boundary
from engine.measure.statistics import mcnemar, paired_difference

# What must be equal before two rates mean the same thing. Prompts may differ if some are common.
MUST_MATCH = ("num_draft_tokens", "adaptive", "top_p", "top_k", "dtype", "device", "acceptance_rule", "served_by")
ONLY_SAMPLED = ("num_draft_tokens", "adaptive")  # these leave the exact rate as it is

# Rate -> the sum it is of, and the sums that make up what it is a share of; each summed over prompts.
RATES = {
    "exact": ("exact_sum", ["n_positions"]),
    "greedy_agreement": ("agree_sum", ["n_positions"]),
    "per_proposed": ("accepted", ["drafted"]),
    "per_examined": ("accepted", ["accepted", "rejected"]),
    "per_emitted": ("accepted", ["emitted"]),
    "tau": ("emitted", ["rounds"]),
}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Conditions that differ between two measurements and matter for comparing them."""
    return {key: (a.get(key), b.get(key)) for key in MUST_MATCH if a.get(key) != b.get(key)}


def compare(
    folder_a: Path, conditions_a: Mapping[str, Any], folder_b: Path, conditions_b: Mapping[str, Any]
) -> dict[str, Any]:
    """Trained draft of b less trained draft of a, every rate and temperature, paired by prompt.

    The folders are the runs' `measure` folders. Pairing needs the same target text: only
    prompts whose answers are the same tokens in both are used, and their number is told.
    Raises DraftbenchError if nothing is common.
    """
    odd = differences(conditions_a, conditions_b)
    texts = _same_text(folder_a, folder_b)
    rows = []
    a, b = _trained(folder_a), _trained(folder_b)
    for temperature, common in texts.items():
        both = a[a.temperature == temperature].merge(
            b[b.temperature == temperature], on="prompt_id", suffixes=("_a", "_b")
        )
        both = both[both.prompt_id.isin(common)]
        for metric in RATES:
            found = paired_rate(both, metric)
            if found is None:
                continue
            reason = _not_comparable(metric, odd)
            rows.append(
                {"temperature": temperature, "metric": metric, **found, "comparable": reason is None, "reason": reason}
            )
    return {
        "differs": {k: list(v) for k, v in odd.items()},
        "rows": rows,
        "greedy_agreement": _discordance(folder_a, folder_b, texts),
    }


def paired_rate(both: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """Rates `a` and `b` on the same prompts and their `difference`, b less a, with its interval; None without a prompt.

    `both`: a row a prompt, its sums under each draft in columns that end with _a and _b.
    """
    top, bottom = RATES[metric]
    usable = both.dropna(subset=[f"{name}_{side}" for name in [top, *bottom] for side in "ab"])
    if usable.empty:
        return None
    sums = {s: usable[f"{top}_{s}"].astype(float) for s in "ab"}
    wholes = {s: usable[[f"{name}_{s}" for name in bottom]].astype(float).sum(axis=1) for s in "ab"}
    interval = paired_difference(sums["a"], wholes["a"], sums["b"], wholes["b"])
    rates = {s: float(sums[s].sum() / wholes[s].sum()) for s in "ab"}
    return {**rates, "difference": interval.as_dict()}


def blocking(metric: str, odd: Mapping[str, Any]) -> list[str]:
    """Those of the differing conditions that forbid comparing this rate."""
    return [key for key in odd if metric not in ("exact", "greedy_agreement") or key not in ONLY_SAMPLED]


def _not_comparable(metric: str, odd: Mapping[str, Any]) -> str | None:
    found = blocking(metric, odd)
    return f"{', '.join(found)} differ" if found else None


def _trained(folder: Path) -> pd.DataFrame:
    return _table(folder / "prompts.parquet")


def _positions(folder: Path) -> pd.DataFrame:
    columns = ["draft", "temperature", "prompt_id", "position", "token_id", "agree"]
    return _table(folder / "positions.parquet", columns)


def _table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The rows of the trained draft. Raises DraftbenchError for a file that is missing or damaged."""
    with boundary(f"{path} cannot be read", "measure the run again, or restore the file"):
        table = pd.read_parquet(path, columns=columns)
        return table[table.draft == "trained"]


def _same_text(folder_a: Path, folder_b: Path) -> dict[float, set[str]]:
    """Prompts with identical target text in both measurements, by temperature."""
    texts = []
    for folder in (folder_a, folder_b):
        rows = _positions(folder).sort_values("position")
        grouped: dict[Any, Any] = rows.groupby(["temperature", "prompt_id"])["token_id"].agg(tuple).to_dict()
        texts.append(grouped)
    same = {key for key in texts[0].keys() & texts[1].keys() if texts[0][key] == texts[1][key]}
    if not same:
        raise DraftbenchError(
            "the two runs have no held-out answer in common",
            "a paired comparison needs the same target text under both drafts",
            "measure both with the same target, held-out prompts, temperatures and seed",
        )
    return {t: {prompt for temperature, prompt in same if temperature == t} for t in sorted({t for t, _ in same})}


def _discordance(folder_a: Path, folder_b: Path, texts: Mapping[float, set[str]]) -> list[dict[str, Any]]:
    """McNemar's table of greedy agreement at each common position, by temperature."""
    merged = _positions(folder_a).merge(
        _positions(folder_b), on=["temperature", "prompt_id", "position"], suffixes=("_a", "_b")
    )
    found = []
    for temperature, common in texts.items():
        rows = merged[(merged.temperature == temperature) & merged.prompt_id.isin(common)]
        rows = rows.dropna(subset=["agree_a", "agree_b"])  # not known of what a server drew
        if rows.empty:
            continue
        a, b = rows.agree_a.astype(bool), rows.agree_b.astype(bool)
        result = mcnemar(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))
        found.append({"temperature": temperature, **result.as_dict()})
    return found
