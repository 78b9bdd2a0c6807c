"""The studies of a home, a row each: how many cells they have and how many are done."""

from __future__ import annotations

from typing import Any

from engine.errors import DraftbenchError
from engine.paths import Home
from engine.study.known import find, known
from engine.study.start import UNDER_WAY, study


def overview(home: Home) -> list[dict[str, Any]]:
    """A row per study, the last submitted first; one that cannot be read says why."""
    return [_row(home, name) for name in known(home)]


def _row(home: Home, name: str) -> dict[str, Any]:
    row = {"study": name, "cells": 0, "done": 0, "under_way": 0, "failed": 0, "problem": ""}
    try:
        current = study(home, find(home, name))
    except DraftbenchError as error:
        return {**row, "problem": error.what}
    counts = current.counts
    return {
        **row,
        "cells": len(current.placed),
        "done": counts.get("done", 0),
        "under_way": sum(counts.get(state, 0) for state in UNDER_WAY),
        "failed": counts.get("failed", 0),
    }
