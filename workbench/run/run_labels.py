"""The labels of one run: read, and the form that changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from engine.errors import DraftbenchError
from engine.runs.folder import RunFolder
from engine.runs.labels import Labels, change_labels, read_labels
from workbench import actions, queries, ui


def labels_form(run: RunFolder, labels: Labels, known_tags: Sequence[str]) -> None:
    """Title, tags, note and marks of the run."""
    key = {name: f"{name}-{run.id}" for name in ("title", "tags", "notes", "pinned", "baseline", "archived")}
    with st.form(f"labels-{run.id}"):
        st.text_input("Title", labels.title, key=key["title"], max_chars=120, placeholder=run.id)
        st.multiselect(
            "Tags", sorted({*known_tags, *labels.tags}), list(labels.tags), key=key["tags"], accept_new_options=True
        )
        st.text_area("Note", labels.notes, key=key["notes"], max_chars=20_000, height=160)
        pinned, baseline, archived = st.columns(3)
        pinned.toggle("Pinned", labels.pinned, key=key["pinned"], help="Comes first in lists.")
        baseline.toggle(
            "Baseline", labels.baseline, key=key["baseline"], help="Others are compared with it; there is one at most."
        )
        archived.toggle(
            "Archived",
            labels.archived,
            key=key["archived"],
            help="Left out of lists and leaderboards; nothing is deleted.",
        )
        actions.submit("Save", lambda: _save(run, key), key=f"save-{run.id}", icon=":material/save:")


def _save(run: RunFolder, key: Mapping[str, str]) -> str:
    given = {name: st.session_state[widget] for name, widget in key.items()}
    change_labels(queries.home(), run, **{**given, "title": given["title"].strip()})
    where = f" It is left out of lists; its folder stays where it is: {run.path}" if given["archived"] else ""
    return f"Saved.{where}"


def labels_of(run: RunFolder) -> Labels | None:
    """The run's labels; None, and a box that says why, if they cannot be read."""
    try:
        return read_labels(run)
    except (DraftbenchError, TypeError, ValueError, OSError) as error:
        if (run.path / "labels.json").exists():
            ui.error_box(error if isinstance(error, DraftbenchError) else DraftbenchError(str(error)))
        return None
