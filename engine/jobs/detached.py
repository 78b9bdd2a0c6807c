"""Processes that go on when the one that started them ends: the queue's worker, its jobs, an export."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from typing import IO

from engine.paths import PROJECT_ROOT, Home, cache_dir


def start_detached(
    home: Home, command: Sequence[str], output: IO[bytes], errors: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which neither Ctrl-C nor the end of this one reaches.

    Without `errors`, both streams go to `output`.
    """
    places = {"DRAFTBENCH_HOME": str(home.root.absolute()), "DRAFTBENCH_CACHE": str(cache_dir().absolute())}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if errors is None else errors,
        cwd=PROJECT_ROOT,
        env={**os.environ, **places},
        start_new_session=True,
    )


def wait_aside(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process in a thread: a child that nobody waits for stays a zombie while this process lives."""
    threading.Thread(target=process.wait, daemon=True, name=f"waits-for-{process.pid}").start()
