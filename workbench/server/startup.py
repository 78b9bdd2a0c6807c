"""The start of the workbench: a warning if other machines can reach it, sample runs, index, queue."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import threading

from engine.errors import DraftbenchError
from engine.index.ingest import ingest_all
from engine.jobs.executors import wake_all
from engine.paths import home
from engine.planning.bounded_checks import HELPERS
from engine.runs.samples import lay_out_samples
from workbench.server.guard import SETTING

LOCAL = ("127.0.0.1", "localhost", "::1")
_log = logging.getLogger("draftbench")


def warning(address: str | None) -> str | None:
    """The warning for a server that other machines can reach; None if it listens to this machine only."""
    if address in LOCAL:
        return None
    where = address or "every network interface"
    return (
        f"Draftbench listens on {where}. Anyone who can reach it can start processes and read files as you. "
        "Use --server.address 127.0.0.1, and an SSH tunnel to reach it from elsewhere. "
        f"It answers at its own IP address and at the names listed in {SETTING}."
    )


def prepare(address: str | None) -> None:
    """Prepare the home for the pages. An error is logged, and shown by the pages, but never fatal here."""
    if message := warning(address):
        _log.warning(message)
    for step in (lay_out_samples, ingest_all, wake_all):
        try:
            step(home())
        except (DraftbenchError, OSError) as error:
            _log.warning("%s: %s", getattr(step, "__name__", "start"), error)
    threading.Thread(target=_load, daemon=True).start()


def _load() -> None:
    """Load torch here and in the helper process of the checks, which takes seconds, before a visitor needs it.

    Streamlit collects garbage after every drawing of a page. What is loaded now stays: frozen, it is not
    searched again each time, which cost more than the drawing itself (`benchmarks/watch_cost.py`).
    """
    importlib.import_module("engine.planning.checks")
    with contextlib.suppress(DraftbenchError, OSError):
        HELPERS.warm()
    gc.collect()
    gc.freeze()
