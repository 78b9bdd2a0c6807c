"""A run of some rows: quiet before it begins, a limit of time, and every row on disk as soon as it is measured."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.goals import Judged, judged
from benchmarks.speed.record import Figure, Report, Row, busy_share, watched
from engine.errors import DraftbenchError
from engine.fileio import write_atomic

BUSY = 0.10  # share of the processors in use before anything begins, beyond which nothing is measured


@dataclass(frozen=True)
class Planned:
    """A row to measure, given a folder of its own. `needs_s`: about how long it takes."""

    name: str
    needs_s: float
    measure: Callable[[Path], Row]


def refuse_busy() -> None:
    """Raise DraftbenchError if the machine is at work already: its figures would be of two programs."""
    share = busy_share()
    if share > BUSY:
        raise DraftbenchError(
            f"{share:.0%} of the processors are in use",
            "figures taken beside other work are of that work too",
            "wait until the machine is idle, or add --anyway: rows that were disturbed are then marked",
        )


def run(planned: Sequence[Planned], report: Report, out: Path | None, *, limit_s: float | None = None) -> Report:
    """Measure the rows one after the other; one that fails, or has no time left, is noted and the next one begins.

    Ctrl-C or SIGTERM ends the row at work with the rounds that it has, and begins no other.
    """
    with _stopping() as stopped:
        return _run(planned, report, out, limit_s, stopped)


def _run(
    planned: Sequence[Planned], report: Report, out: Path | None, limit_s: float | None, stopped: threading.Event
) -> Report:
    began = time.monotonic()
    for plan in planned:
        left = None if limit_s is None else limit_s - (time.monotonic() - began)
        if stopped.is_set():
            report = _skipped(report, plan.name, "stopped before")
        elif left is not None and left < plan.needs_s:
            report = _skipped(report, plan.name, f"{left:.0f} s were left, it needs about {plan.needs_s:.0f}")
        else:
            report = _measured(report, plan)
        report = report.model_copy(update={"load_after": os.getloadavg()[0]})
        if out is not None:
            write_atomic(out, report.model_dump_json(indent=1, by_alias=True) + "\n")
    return report


def _measured(report: Report, plan: Planned) -> Report:
    print(f"{plan.name}: about {plan.needs_s:.0f} s ...", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="draftbench-speed-") as folder, watched() as seen:
            row = plan.measure(Path(folder))
    except KeyboardInterrupt:
        return _skipped(report, plan.name, "stopped before two rounds were done")
    except Exception as error:  # another row may still be measured
        return _skipped(report, plan.name, f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])
    row = row.model_copy(update=seen)
    print("\n".join(lines_of(row)), file=sys.stderr, flush=True)
    return report.model_copy(update={"rows": [*report.rows, row]})


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Inside, SIGTERM interrupts as Ctrl-C does, and the event remembers that either came."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _skipped(report: Report, name: str, why: str) -> Report:
    print(f"{name}: not measured: {why}", file=sys.stderr, flush=True)
    return report.model_copy(update={"skipped": {**report.skipped, name: why}})


def lines_of(row: Row) -> list[str]:
    """A row's figures for the terminal."""
    mark = ""
    if row.company is not None and row.company.disturbed:
        mark = f" (DISTURBED: others used {row.company.others + row.company.stolen:.0%} of the machine)"
    figures = [f"  {name:<28} {shown(figure)}" for name, figure in row.figures.items()]
    return [f"{row.title}, {row.seconds:.0f} s{mark}", *figures, *(f"  note: {note}" for note in row.notes)]


def shown(figure: Figure) -> str:
    """A figure with its interval and unit: '1.30 [1.22, 1.38] x'."""
    number = number_of(figure.value)
    if figure.low is not None and figure.high is not None:
        number += f" [{number_of(figure.low)}, {number_of(figure.high)}]"
    return f"{number} {figure.unit}".strip()


def number_of(value: float) -> str:
    """Three digits that count, thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def goal_table(report: Report) -> str:
    """The goals of the report's device for the terminal, a line each."""
    lines = [f"{'goal':<66} {'bound':>10}  measured"]
    lines += [
        f"{one.goal.work:<66} {one.goal.in_words:>10}  {verdict_of(one)}" for one in judged([report], report.device)
    ]
    return "\n".join(lines)


def verdict_of(one: Judged) -> str:
    """What was measured for a goal and what that means, in a few words."""
    if one.figure is None:
        return f"not measured{': ' + one.why_not if one.why_not else ''}"
    if one.verdict == "met":
        return f"{shown(one.figure)}: met{'' if one.surely else ', though not by the whole interval'}"
    return f"{shown(one.figure)}: missed, {number_of(one.share)} of the goal"
