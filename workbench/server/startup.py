"""What happens once when the workbench starts: a warning if it can be reached from outside, samples, index, queue."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading

from engine.errors import DraftbenchError
from engine.index.ingest import ingest_all
from engine.jobs.queue import wake
from engine.paths import home
from engine.planning.bounded_checks import HELPERS
from engine.runs.samples import lay_out_samples
from workbench.server.guard import SETTING

LOCAL = ("127.0.0.1", "localhost", "::1")
_log = logging.getLogger("draftbench")


def warning(address: str | None) -> str | None:
    """What to tell somebody who lets other machines in; None if the server listens to this one alone."""
    if address in LOCAL:
        return None
    where = address or "every network interface"
    return (
        f"Draftbench listens on {where}. Whoever reaches it can start processes and read files as you. "
        "Use --server.address 127.0.0.1, and an SSH tunnel to reach it from elsewhere. "
        f"It answers at its own IP address, and at the names that {SETTING} lists."
    )


def prepare(address: str | None) -> None:
    """Make the home ready to be looked at. A fault is logged and shown by the pages, never fatal here."""
    told = warning(address)
    if told:
        _log.warning(told)
    where = home()
    for step in (lay_out_samples, ingest_all, wake):
        try:
            step(where)
        except (DraftbenchError, OSError) as error:
            _log.warning("%s: %s", getattr(step, "__name__", "start"), error)
    threading.Thread(target=_load, daemon=True).start()


def _load() -> None:
    """Loading torch takes seconds, here and in the process of the checks: begin now, so that no visitor waits for it."""
    importlib.import_module("engine.planning.checks")
    with contextlib.suppress(DraftbenchError, OSError):
        HELPERS.warm()
