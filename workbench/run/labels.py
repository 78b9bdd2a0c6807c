"""The Labels section of a run's page: the form for title, tags, note and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from engine.records.labels import Labels
from engine.runs.folder import RunFolder
from workbench.shared import actions, label_form


def labels_form(run: RunFolder, labels: Labels, known_tags: Sequence[str]) -> None:
    """Draw the form."""
    key = {name: f"{name}-{run.id}" for name in ("title", "tags", "notes", "pinned", "baseline", "archived")}
    labels = label_form.drawn_with(run.id, key, labels)
    with st.form(f"labels-{run.id}"):
        st.text_input("Title", labels.title, key=key["title"], max_chars=120, placeholder=run.id)
        st.multiselect(
            "Tags", sorted({*known_tags, *labels.tags}), list(labels.tags), key=key["tags"], accept_new_options=True
        )
        st.text_area("Note", labels.notes, key=key["notes"], max_chars=20_000, height=160)
        pinned, baseline, archived = st.columns(3)
        pinned.toggle("Pinned", labels.pinned, key=key["pinned"], help="Listed first.")
        baseline.toggle(
            "Baseline", labels.baseline, key=key["baseline"], help="The run that others are compared with; at most one."
        )
        archived.toggle(
            "Archived",
            labels.archived,
            key=key["archived"],
            help="Hidden from lists and not ranked; nothing is deleted.",
        )
        actions.submit("Save", lambda: _save(run, key), key=f"save-{run.id}", place="labels", icon=":material/save:")
    actions.outcome("labels")


def _save(run: RunFolder, key: Mapping[str, str]) -> str:
    saved = label_form.save(run, run.id, key)
    where = f" It is hidden from lists; its folder stays at {run.path}" if saved.archived else ""
    return f"Saved.{where}"
