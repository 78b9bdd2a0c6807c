"""The runs removed in the last 24 hours, below the table, each with a button that brings it back."""

from __future__ import annotations

import streamlit as st

from engine.runs import trash
from workbench.shared import actions, queries, ui

_MOST = 50


def removed() -> None:
    """Draw what can be restored; nothing where nothing was removed."""
    entries = trash.removed_runs(queries.home())
    if not entries:
        return
    with st.expander(f"Removed in the last 24 hours: {len(entries)}", icon=":material/restore_from_trash:"):
        for place, entry in enumerate(entries[:_MOST]):
            with st.container(horizontal=True, vertical_alignment="center"):
                actions.button(
                    "Restore",
                    lambda entry=entry: _restore(entry),  # type: ignore[misc]
                    key=f"restore-{place}",
                    icon=":material/undo:",
                )
                st.markdown(
                    f"**{ui.text(entry.run_id)}**, removed {entry.removed_at:%Y-%m-%d %H:%M} UTC, kept until "
                    f"{entry.until:%Y-%m-%d %H:%M} UTC"
                )
        if len(entries) > _MOST:
            st.caption(f"The last {_MOST} of {len(entries)}; `draftbench runs --deleted` lists all.")


def _restore(entry: trash.Removed) -> str:
    trash.restore(queries.home(), entry.run_id, entry.removed_at)
    return f"Restored {entry.run_id}."
