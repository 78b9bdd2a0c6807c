"""Served measurements with their verdicts, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.cli.text import console
from engine.deploy.verdict import Verdict, judge_of_run
from engine.numbers import number
from engine.records.served import ServedMeasurement
from engine.runs.folder import RunFolder

_BASES = {
    "prompts": "over the same prompts, in pairs",
    "requests": "over requests",
    "rounds": "over rounds, as if they were independent",
    "proposed tokens": "from the number of proposed tokens alone",
}
_SHOWN_CAUSES = 4

Measured = tuple[str, ServedMeasurement | None, str]
"""Name, measurement, and what of it could not be read."""


def report(run: RunFolder, measured: Sequence[Measured], *, as_json: bool) -> None:
    """Print some served measurements of a run, each with its verdict."""
    judged = [(*one, None if one[1] is None else judge_of_run(one[1], run)) for one in measured]
    if as_json:
        console.print_json({"run": run.id, "served": [_document(*one) for one in judged]})
        return
    if not judged:
        console.line(f"run {run.id} has no served measurement: see `draftbench served import --help`")
    for number_, (name, measurement, problem, verdict) in enumerate(judged):
        if number_:
            console.line("")
        _print(name, measurement, problem, verdict)


def unkept(measurements: Sequence[ServedMeasurement], *, as_json: bool) -> None:
    """Print measurements that belong to no run: there is nothing to compare them with."""
    if as_json:
        console.print_json({"run": None, "served": [{"measurement": one.document()} for one in measurements]})
        return
    for one in measurements:
        console.line(one.in_words)
        for note in one.notes:
            console.line(f"  note: {note}")
        rates = (("accepted / proposed", one.totals.per_proposed), ("tokens per round", one.totals.tokens_per_round))
        rows = [*rates, *((f"token {i} accepted", value) for i, value in enumerate(one.totals.acceptance_at, 1))]
        console.table("", ["", "served"], [[title, number(value)] for title, value in rows if math.isfinite(value)])


def _document(
    name: str, measurement: ServedMeasurement | None, problem: str, verdict: Verdict | None
) -> dict[str, Any]:
    return {
        "name": name,
        "measurement": measurement and measurement.document(),
        "problem": problem,
        "verdict": verdict and verdict.document(),
    }


def _print(name: str, measurement: ServedMeasurement | None, problem: str, verdict: Verdict | None) -> None:
    if measurement is None or verdict is None:
        console.line(f"{name}: {problem}")
        return
    console.line(f"{name}: {measurement.in_words}")
    if problem:
        console.line(f"  left out: {problem}")
    for note in measurement.notes:
        console.line(f"  note: {note}")
    for sentence in verdict.taken:
        console.line(f"  taken for granted: {sentence}")
    rows = [
        [
            *(figure.title, console.rate(figure.predicted), console.rate(figure.served)),
            *(figure.apart, f"{figure.limit:.1f}"),
        ]
        for figure in (*verdict.figures, *verdict.places)
    ]
    if rows:
        bases = {_BASES[figure.basis] for figure in verdict.figures}
        console.table("", ["", "predicted", "served", "standard errors apart", "chance allows"], rows)
        console.line(f"  intervals: predicted over prompts, served {' and '.join(sorted(bases))}")
    console.paragraph(f"{verdict.outcome}: {verdict.sentence}")
    for place, cause in enumerate(verdict.causes[:_SHOWN_CAUSES], 1):
        console.line(f"  {place}. {cause.title} ({cause.weight:.2f}): {cause.why}")
        console.line(f"     fix: {cause.fix}")
    if verdict.fix:
        console.line(f"  fix: {verdict.fix}")
