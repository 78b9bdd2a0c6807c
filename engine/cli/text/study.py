"""What `draftbench study` says in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.cli.text import console
from engine.numbers import number, readable_bytes
from engine.progress import duration

_SHOWN = 5  # runs that are named


def states(name: str, counts: Mapping[str, int]) -> None:
    """How many cells there are, by state."""
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.line(f"study {name}: {sum(counts.values())} cells: {told}")


def passed_over(sentences: Sequence[str]) -> None:
    """Why finished runs are not taken."""
    for words in sentences[:_SHOWN]:
        console.paragraph(f"look: {words}, so its cell is made anew")
    if len(sentences) > _SHOWN:
        console.paragraph(f"look: so were {len(sentences) - _SHOWN} more runs")


def costs(found: Mapping[str, Any]) -> None:
    """Captures, time and disk of what is not finished."""
    if found["captures"]:
        there = found["captures_there"]
        console.line(f"shared captures: {found['captures']}, of which {there} are there")
    seconds, disk = found["seconds"], found["disk_bytes"]
    if found["unknown"]:
        console.paragraph(f"time: {found['unknown']}")
    if seconds is not None and found["estimated"]:
        based = f", scaled from run {found['based_on']}" if found["based_on"] else ""
        console.paragraph(
            f"time about {duration(seconds)}{based}; one cell of each target, mode, schedule and size "
            f"was estimated ({found['estimated']}), the others are taken to be alike"
        )
    if disk is not None and found["estimated"]:
        console.line(f"disk at most {readable_bytes(int(disk))}")
    for note in found["notes"]:
        console.paragraph(f"look: {note}")


def cells(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a cell: state, exact acceptance, gain over the untrained draft, effort."""
    temperatures = sorted({found["temperature"] for row in rows for found in row["exact"]})
    columns = ["cell", "state", *(c for t in temperatures for c in (f"exact T={t:g}", "gain")), "steps", "tokens", "s"]
    console.table("", columns, [_cell(row, temperatures) for row in rows])
    for row in rows:
        if row["problem"]:
            console.paragraph(f"{row['cell']}: {row['problem']}")


def _cell(row: Mapping[str, Any], temperatures: Sequence[float]) -> list[Any]:
    exact = {found["temperature"]: found for found in row["exact"]}
    figures = []
    for temperature in temperatures:
        found = exact.get(temperature)
        figures += ["-", "-"] if found is None else [number(found["value"]), console.rate(found["gain"] or {})]
    effort = ["-" if row[key] is None else round(row[key]) for key in ("steps_done", "tokens_seen", "seconds")]
    return [row["cell"], row["state"], *figures, *effort]


def modes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Offline less the other mode, three ways, a line a cell and temperature."""
    if not rows:
        return
    known = [row for row in rows if row["difference"] is not None]
    open_pairs = {(row["other"], row["equal"]) for row in rows if row["difference"] is None}
    names = {"own schedule": "own", "tokens": "equal tokens", "steps": "equal steps"}
    told: dict[tuple[str, float], dict[str, str]] = {}
    for row in known:
        told.setdefault((row["other"], row["temperature"]), {})[row["equal"]] = console.rate(row["difference"])
    console.line("")
    console.table(
        "modes compared: offline less online or on-policy, exact acceptance, paired by prompt, [95% interval]",
        ("cell", "T", *names.values()),
        [[cell, f"{t:g}", *(found.get(equal, "-") for equal in names)] for (cell, t), found in told.items()],
    )
    if open_pairs:
        console.paragraph(f"{len(open_pairs)} comparisons are not there yet or may not be made; --json says why")


def known(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a study."""
    console.table(
        "",
        ("study", "cells", "done", "under way", "failed"),
        [[r["study"], r["cells"], r["done"], r["under_way"], r["failed"]] for r in rows],
    )
    for row in rows:
        if row["problem"]:
            console.paragraph(f"{row['study']}: {row['problem']}")
