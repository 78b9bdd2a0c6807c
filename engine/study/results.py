"""What a study has found: a row a cell, and the modes compared at their own schedule, at equal tokens and at equal steps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from engine.errors import first_line
from engine.measure.compare import compare, differences, paired_rate
from engine.records.provenance import Provenance
from engine.records.summary import Summary
from engine.records.training import Training
from engine.runs.folder import RunFolder
from engine.study.start import Study
from engine.study.state import Placed

EQUAL = ("own schedule", "tokens", "steps")  # what is equal between the two modes
_EFFORT = ("steps_done", "tokens_seen", "seconds")


def cells_told(study: Study) -> list[dict[str, Any]]:
    """A row a cell: labels, state, run, what its training took, and its exact acceptance at each temperature."""
    return [_row(one) for one in study.placed]


def _row(one: Placed) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell": one.cell.name,
        "labels": dict(one.cell.labels),
        "schedule": one.cell.schedule,
        "state": one.state,
        "run": one.run.id if one.run else None,
        "identity": one.cell.key,
        "problem": "; ".join(() if one.run else one.passed_over),
        **dict.fromkeys(_EFFORT),
        "exact": [],
    }
    if one.run is None:
        return row
    try:
        if one.state == "failed":
            error = one.run.status().error
            row["problem"] = error.what if error else ""
        if training := Training.read(one.run.path):
            row |= {key: getattr(training, key) for key in _EFFORT}
        if one.run.summary_path.exists():
            row["exact"] = _exact(one.run.summary())
    except Exception as error:  # of what one run holds: the others are shown
        row["problem"] = first_line(error)
    return row


def _exact(summary: Summary) -> list[dict[str, Any]]:
    """Exact acceptance of the trained draft and its gain over the untrained one, a temperature."""
    gains = {temperature: gain.document() for temperature, gain in summary.gains().items()}
    return [
        {
            **{key: getattr(metric, key) for key in ("temperature", "value", "low", "high", "n_prompts")},
            "gain": gains.get(metric.temperature),
        }
        for metric in summary.of("trained", "exact")
    ]


def modes_compared(study: Study) -> list[dict[str, Any]]:
    """Offline less online (or on-policy), exact acceptance paired by prompt: a row a pair of cells and temperature.

    `difference` is None with a `reason` where one of the two is not measured or they may not be compared.
    """
    where = {one.cell.key: one for one in study.placed}
    rows = []
    for pair in sorted(study.cells.pairs, key=lambda pair: EQUAL.index(pair.equal)):
        other, offline = where[pair.other], where[pair.offline]
        labels = {axis: label for axis, label in other.cell.labels.items() if axis != "mode"}
        told = {
            "labels": labels,
            "mode": other.cell.labels.get("mode", other.cell.recipe.train.mode),
            "equal": pair.equal,
            "offline": offline.cell.name,
            "other": other.cell.name,
            "steps": _effort(offline, other, "steps_done"),
            "tokens": _effort(offline, other, "tokens_seen"),
        }
        rows += [{**told, **found} for found in _differences(offline, other)]
    return rows


def _effort(offline: Placed, other: Placed, key: str) -> list[Any]:
    return [_row(one)[key] for one in (offline, other)]


def _differences(offline: Placed, other: Placed) -> list[dict[str, Any]]:
    runs = [one.run for one in (offline, other)]
    unmeasured = [
        one.cell.name
        for one in (offline, other)
        if one.state != "done" or one.run is None or not one.run.summary_path.exists()
    ]
    nothing = {"temperature": None, "difference": None}
    if unmeasured:
        return [{**nothing, "reason": f"not measured: {', '.join(unmeasured)}"}]
    try:
        left, right = (run for run in runs if run is not None)
        return _paired(left, right)
    except Exception as error:
        return [{**nothing, "reason": first_line(error)}]


def _paired(offline: RunFolder, other: RunFolder) -> list[dict[str, Any]]:
    """b less a is taken with the online run as a: above zero, offline is ahead."""
    conditions = [run.summary().conditions.document() for run in (other, offline)]
    if not _same_answers(other, offline):
        rows = compare(other.path / "measure", conditions[0], offline.path / "measure", conditions[1])["rows"]
        return [
            {
                "temperature": row["temperature"],
                "difference": row["difference"] if row["comparable"] else None,
                "reason": row["reason"] or "",
            }
            for row in rows
            if row["metric"] == "exact"
        ]
    odd = [key for key in differences(*conditions) if key not in ("num_draft_tokens", "adaptive")]
    both = _sums(other).merge(_sums(offline), on=["temperature", "prompt_id"], suffixes=("_a", "_b"))
    found = []
    for temperature, rows_here in both.groupby("temperature"):
        paired = None if odd else paired_rate(rows_here, "exact")
        reason = f"{', '.join(odd)} differ" if odd else "" if paired else "no prompt in common"
        found.append(
            {"temperature": float(str(temperature)), "difference": paired and paired["difference"], "reason": reason}
        )
    return found


def _same_answers(a: RunFolder, b: RunFolder) -> bool:
    """Whether both were measured on the same captures, hence on the same text of the target."""
    addresses = []
    for run in (a, b):
        measurement = Provenance.read_or_empty(run.path).measurement
        addresses += [measurement.captures] if measurement else []
    return len(addresses) == 2 and bool(addresses[0]) and addresses[0] == addresses[1]


def _sums(run: RunFolder) -> pd.DataFrame:
    path = run.path / "measure" / "prompts.parquet"
    return _sums_of(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _sums_of(path: Path, changed_ns: int) -> pd.DataFrame:
    """Sums a prompt and temperature of the trained draft."""
    table = pd.read_parquet(path, columns=["draft", "temperature", "prompt_id", "exact_sum", "n_positions"])
    return table[table.draft == "trained"].drop(columns="draft")
