"""The checks of `draftbench doctor` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.cli.text import console

if TYPE_CHECKING:
    from engine.planning.doctor import HealthCheck


def health(checks: Sequence[HealthCheck]) -> None:
    """Print a row per check, then how to fix those that failed."""
    console.table("", ["", "check", "result"], [["ok" if c.ok else "FIX", c.name, c.condition] for c in checks])
    for check in checks:
        if not check.ok:
            console.line(f"fix {check.name}: {check.fix}")
