"""What `draftbench run --plan` prints: the checks of a recipe, and what the run will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.cli.text import console
from engine.numbers import readable_bytes
from engine.progress import duration

if TYPE_CHECKING:
    from engine.planning.checks import Check
    from engine.planning.estimate import Estimate

_MARKS = {"ok": "ok", "warning": "note", "failed": "FIX"}


def checks(results: Sequence[Check]) -> None:
    """Print a row per check, then what to do about those that are not right."""
    console.table("", ["", "check", "result"], [[_MARKS[check.state], check.name, check.message] for check in results])
    for check in results:
        if check.fix:
            console.paragraph(f"{'fix' if check.state == 'failed' else 'note'} {check.name}: {check.fix}")


def cost(estimate: Estimate) -> None:
    """Print time, disk space and memory, each with its parts, or why it is not known."""
    if estimate.seconds:
        parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in estimate.seconds.items())
        least = "at least" if estimate.seconds_missing else "about"
        console.paragraph(f"time: {least} {duration(sum(estimate.seconds.values()))} ({parts}), {_source(estimate)}")
    if estimate.seconds_missing:
        console.paragraph(f"  not counted: {', '.join(estimate.seconds_missing)}")
    if estimate.seconds_unknown:
        first = "; the run begins with a trial of five seconds, and then says" if not estimate.disk_unknown else ""
        console.paragraph(f"time: {estimate.seconds_unknown}{first}")
    for name, size, most, unknown in (
        ("disk", estimate.disk_bytes, "at most", estimate.disk_unknown),
        ("memory", estimate.memory_bytes, "about", estimate.memory_unknown),
    ):
        if size is not None or unknown:
            console.paragraph(f"{name}: {unknown if size is None else f'{most} {readable_bytes(size)}'}")


def _source(estimate: Estimate) -> str:
    if estimate.probed:
        return "from a trial of target and draft, with answers as long as they may be"
    differs = f", which differs: {'; '.join(estimate.differs)}" if estimate.differs else ""
    return f"scaled from run {estimate.based_on}{differs}"
