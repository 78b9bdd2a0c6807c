"""The results of a study: a row per cell, and the modes compared at own schedule, equal tokens and equal steps."""

from __future__ import annotations

from typing import Any

from engine.errors import first_line
from engine.measure.compare import compare, nothing_in_common
from engine.records.summary import Summary
from engine.records.training import Training
from engine.runs.compare_runs import measurement_of
from engine.study.start import Study
from engine.study.state import Placed

EQUAL = ("own schedule", "tokens", "steps")  # what is equal between the two modes of a pair
_EFFORT = ("steps_done", "tokens_seen", "seconds")


def cell_results(study: Study) -> list[dict[str, Any]]:
    """A row per cell: labels, state, run, the effort of its training, and its exact acceptance at each temperature."""
    return [_row(placed) for placed in study.placed]


def _row(placed: Placed) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell": placed.cell.name,
        "labels": dict(placed.cell.labels),
        "schedule": placed.cell.schedule,
        "state": placed.state,
        "run": placed.run.id if placed.run else None,
        "identity": placed.cell.key,
        "problem": "; ".join(() if placed.run else placed.passed_over),
        **dict.fromkeys(_EFFORT),
        "exact": [],
    }
    if placed.run is None:
        return row
    try:
        if placed.state == "failed":
            error = placed.run.status().error
            row["problem"] = error.what if error else ""
        if training := Training.read(placed.run.path):
            row |= {key: getattr(training, key) for key in _EFFORT}
        if placed.run.summary_path.exists():
            row["exact"] = _exact(placed.run.summary())
    except Exception as error:  # a damaged run says so in its row, and the others are shown
        row["problem"] = first_line(error)
    return row


def _exact(summary: Summary) -> list[dict[str, Any]]:
    """Exact acceptance of the trained draft and its gain over the untrained one, at each temperature."""
    gains = {temperature: gain.document() for temperature, gain in summary.gains().items()}
    return [
        {
            **{key: getattr(metric, key) for key in ("temperature", "value", "low", "high", "n_prompts")},
            "gain": gains.get(metric.temperature),
        }
        for metric in summary.of("trained", "exact")
    ]


def mode_comparisons(study: Study) -> list[dict[str, Any]]:
    """Exact acceptance of offline less online (or on-policy), by prompt: a row per pair of cells and temperature.

    `difference` is None, with a `reason`, where one of the two is not measured or they may not be compared.
    """
    by_key = {placed.cell.key: placed for placed in study.placed}
    efforts = {placed.cell.key: row for placed, row in zip(study.placed, cell_results(study), strict=True)}
    rows = []
    for pair in sorted(study.cells.pairs, key=lambda pair: EQUAL.index(pair.equal)):
        other, offline = by_key[pair.other], by_key[pair.offline]
        shared = {
            "labels": {axis: label for axis, label in other.cell.labels.items() if axis != "mode"},
            "mode": other.cell.labels.get("mode", other.cell.recipe.train.mode),
            "equal": pair.equal,
            "offline": offline.cell.name,
            "other": other.cell.name,
            "steps": [efforts[key]["steps_done"] for key in (pair.offline, pair.other)],
            "tokens": [efforts[key]["tokens_seen"] for key in (pair.offline, pair.other)],
        }
        rows += [shared | row for row in _differences(offline, other)]
    return rows


def _differences(offline: Placed, other: Placed) -> list[dict[str, Any]]:
    """Offline less the other mode at each temperature; or one row that says why there is no difference."""
    sides, unmeasured = [], []
    for placed in (offline, other):
        if placed.state == "done" and placed.run is not None and placed.run.summary_path.exists():
            sides.append((placed.run, placed.cell.recipe.measure.bootstrap_samples))
        else:
            unmeasured.append(placed.cell.name)
    reason = f"not measured: {', '.join(unmeasured)}"
    if not unmeasured:
        try:
            of_offline, of_other = (measurement_of(run, samples) for run, samples in sides)
            rows = compare(of_other, of_offline, ["exact"])
            if not rows:
                raise nothing_in_common()
        except Exception as error:  # a damaged run costs its own rows only
            reason = first_line(error)
        else:
            return [
                {
                    "temperature": row.temperature,
                    "difference": row.difference.as_dict() if row.comparable else None,
                    "reason": row.reason or "",
                }
                for row in rows
            ]
    return [{"temperature": None, "difference": None, "reason": reason}]
