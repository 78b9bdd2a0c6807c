"""Where the runs are worked on: this machine first, and any other place by its address, as `--on` takes it."""

from __future__ import annotations

import os

import streamlit as st

from engine.errors import DraftbenchError
from engine.jobs.executors import LOCAL, place_at
from workbench.shared import ui

_HERE, _ELSEWHERE = "This machine, one run after another", "A cluster"


def choose(key: str) -> str | None:
    """Draw the choice; the address of the place, None until one is typed that there is.

    No link fills it in: it would send prompts, and where a key may go, elsewhere.
    """
    usual = os.environ.get("DRAFTBENCH_PLACE") or LOCAL
    picked = st.radio(
        "Where", [_HERE, _ELSEWHERE], index=0 if usual == LOCAL else 1, key=f"{key}:where", horizontal=True
    )
    if picked == _HERE:
        return LOCAL
    typed = st.text_input(
        "Address of the cluster",
        value="" if usual == LOCAL else usual,
        placeholder="ray://head:10001",
        key=f"{key}:place",
        help="`ray` is the Ray cluster that RAY_ADDRESS names, or a Ray on this machine; `ray://HOST:PORT` any other; "
        "`slurm://PARTITION` is a partition of Slurm.",
    ).strip()
    if not typed:
        st.caption("Type its address to start runs there.")
        return None
    try:
        place_at(typed)
    except DraftbenchError as error:
        ui.error_box(error)
        return None
    return typed
