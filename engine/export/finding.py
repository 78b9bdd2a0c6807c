"""What is wrong with a pair for a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["refused", "warning"]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a pair for a server: why, as the server itself would say it, and what to do."""

    level: Level
    what: str
    reason: str
    fix: str


Findings = Iterator[Finding]
