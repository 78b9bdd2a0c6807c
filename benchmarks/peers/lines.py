"""JSON lines between a benchmark and a program in another checkout or environment.

The program imports this file alone, so it needs the standard library and nothing else. A request is a line on standard
input, an answer a line on what was standard output; what libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any


class Channel:
    """The program's end of the line."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever else is printed, also by code that is not Python

    def receive(self) -> dict[str, Any] | None:
        """The next request; None when there are no more."""
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else None

    def send(self, **answer: Any) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def watch_memory() -> None:
    """Count the most memory of this process from now on (Linux); elsewhere from its start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def most_bytes() -> int:
    """The most memory that this process held since `watch_memory`."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
