"""The Configuration section of a run's page: the resolved recipe."""

from __future__ import annotations

import streamlit as st

from engine.errors import DraftbenchError
from engine.fileio import read_bounded
from engine.runs.folder import RunFolder
from engine.untrusted.yaml_text import MAX_BYTES
from workbench.shared import ui


def configuration(run: RunFolder) -> None:
    """Draw the resolved recipe and the command that runs it."""
    path = run.path / "config.yaml"
    if not path.is_file():
        st.info("The recipe of this run is missing.", icon=":material/broken_image:")
        return
    try:
        raw = read_bounded(path, MAX_BYTES)
    except DraftbenchError as error:
        ui.error_box(error)
        return
    st.caption("The resolved recipe, with all defaults written out: it reproduces this run.")
    left, right = st.columns([1, 3], vertical_alignment="center")
    left.download_button(
        "Recipe (YAML)",
        raw,
        f"{run.id}.yaml",
        "application/yaml",
        key="yaml",
        icon=":material/download:",
        on_click="ignore",
    )
    right.code(f"draftbench run {run.id}.yaml", language=None)
    st.code(raw.decode("utf-8", "replace"), language="yaml", height=520)
