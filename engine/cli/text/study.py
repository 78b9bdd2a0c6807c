"""Studies as text: their plan, cost, cells and the comparison of modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli.text import console
from engine.measure.interval_words import trusted
from engine.numbers import number, readable_bytes
from engine.progress import duration
from engine.records.interval import Interval

if TYPE_CHECKING:
    from engine.study.costs import Costs

_RUNS_NAMED = 5


def states(name: str, counts: Mapping[str, int]) -> None:
    """Print the number of cells in each state."""
    by_state = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.line(f"study {name}: {sum(counts.values())} cells: {by_state}")


def passed_over(reasons: Sequence[str]) -> None:
    """Print why finished runs do not count for their cells."""
    for reason in reasons[:_RUNS_NAMED]:
        console.paragraph(f"note: {reason}, so its cell is run again")
    if len(reasons) > _RUNS_NAMED:
        console.paragraph(f"note: the same holds for {len(reasons) - _RUNS_NAMED} more runs")


def costs(estimate: Costs) -> None:
    """Print the captures, time and disk space that the unfinished cells need."""
    if estimate.captures:
        console.line(f"shared captures: {estimate.captures}, of which {estimate.captures_there} exist")
    seconds, disk = estimate.seconds, estimate.disk_bytes
    if estimate.unknown:
        console.paragraph(f"time: {estimate.unknown}")
    if seconds is not None and estimate.estimated:
        source = f", scaled from run {estimate.based_on}" if estimate.based_on else ""
        console.paragraph(
            f"time: about {duration(seconds)}{source}; estimated from {estimate.estimated} cells, one per target, "
            "mode, schedule and size, assuming that the others take as long"
        )
    if disk is not None and estimate.estimated:
        console.line(f"disk: at most {readable_bytes(int(disk))}")
    for note in estimate.notes:
        console.paragraph(f"note: {note}")


def cells(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row per cell: state, exact acceptance, gain over the untrained draft, effort."""
    temperatures = sorted({exact["temperature"] for row in rows for exact in row["exact"]})
    columns = ["cell", "state", *(c for t in temperatures for c in (f"exact T={t:g}", "gain")), "steps", "tokens", "s"]
    console.table("", columns, [_cell(row, temperatures) for row in rows])
    for row in rows:
        if row["problem"]:
            console.paragraph(f"{row['cell']}: {row['problem']}")


def _cell(row: Mapping[str, Any], temperatures: Sequence[float]) -> list[Any]:
    by_temperature = {exact["temperature"]: exact for exact in row["exact"]}
    figures = []
    for temperature in temperatures:
        exact = by_temperature.get(temperature)
        figures += ["-", "-"] if exact is None else [number(exact["value"]), console.rate(Interval.of(exact["gain"]))]
    effort = ["-" if row[key] is None else round(row[key]) for key in ("steps_done", "tokens_seen", "seconds")]
    return [row["cell"], row["state"], *figures, *effort]


def modes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print offline minus the other mode at three kinds of effort, a row per cell and temperature.

    Where an axis is of offline training alone, a cell has several offline ones to be compared with, and a row for each.
    """
    if not rows:
        return
    names = {"own schedule": "own", "tokens": "equal tokens", "steps": "equal steps"}
    differences: dict[tuple[str, float], dict[str, dict[str, str]]] = {}
    for row in rows:
        if row["difference"] is not None:
            at = differences.setdefault((row["other"], row["temperature"]), {equal: {} for equal in names})
            at[row["equal"]][row["offline"]] = console.rate(trusted(Interval.of(row["difference"])))
    console.line("")
    console.table(
        "modes compared: offline minus online or on-policy, exact acceptance, paired by prompt, [95% interval]",
        ("cell", "T", *names.values()),
        [[name, f"{t:g}", *line] for (cell, t), by in differences.items() for name, line in _lines(cell, by)],
    )
    open_pairs = {(row["other"], row["equal"]) for row in rows if row["difference"] is None}
    if open_pairs:
        console.paragraph(f"{len(open_pairs)} comparisons are missing or not possible; --json gives the reasons")


def _lines(cell: str, by: Mapping[str, Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """The rows of a cell: name, and a difference per kind of effort. `by`: kind -> offline cell -> difference."""
    count = max(map(len, by.values()))
    if count == 1:
        return [(cell, [next(iter(offline.values()), "-") for offline in by.values()])]
    cells = dict.fromkeys(name for offline in by.values() for name in offline)
    return [(f"{cell} against {name}", [offline.get(name, "-") for offline in by.values()]) for name in cells]


def known(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row per study."""
    console.table(
        "",
        ("study", "cells", "done", "under way", "failed"),
        [[r["study"], r["cells"], r["done"], r["under_way"], r["failed"]] for r in rows],
    )
    for row in rows:
        if row["problem"]:
            console.paragraph(f"{row['study']}: {row['problem']}")
