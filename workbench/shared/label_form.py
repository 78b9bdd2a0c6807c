"""A form for labels that several people may have open: it saves the edited fields and reports conflicting changes."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from engine.errors import DraftbenchError
from engine.records.labels import Labels
from engine.runs.folder import RunFolder
from engine.runs.labels import BaselineConflict, LabelConflict, change_seen_labels, read_labels
from workbench.shared import queries, ui


def drawn_with(mark: str, keys: Mapping[str, str], labels: Labels) -> Labels:
    """The labels that the form's widgets started with. `keys`: label -> key of its widget; `mark`: the form's name.

    A widget keeps its text while the labels on disk change, so the initial labels are remembered with it.
    """
    if not any(key in st.session_state for key in keys.values()):
        st.session_state[_seen(mark)] = labels
        st.session_state[_seen_baseline(mark)] = queries.baseline()
    seen: Labels = st.session_state.setdefault(_seen(mark), labels)
    return seen


def save(run: RunFolder, mark: str, keys: Mapping[str, str]) -> Labels:
    """Save the edited fields. After a conflict, saving again overwrites the other change."""
    seen: Labels = st.session_state[_seen(mark)]
    given = {label: st.session_state[key] for label, key in keys.items()}
    if "title" in given:
        given["title"] = given["title"].strip()
    if "tags" in given:
        given["tags"] = tuple(given["tags"])
    baseline = st.session_state.get(_seen_baseline(mark), "")
    try:
        wanted = seen.model_copy(update=given)
        saved = change_seen_labels(queries.home(), run, seen, wanted, seen_baseline=baseline)
    except BaselineConflict as conflict:
        st.session_state[_seen_baseline(mark)] = conflict.present
        raise
    except LabelConflict as conflict:
        stored = {key: getattr(conflict.present, key) for key in conflict.keys}
        st.session_state[_seen(mark)] = seen.model_copy(update=stored)
        raise
    st.session_state[_seen(mark)] = saved
    for label, key in keys.items():  # show what others have changed meanwhile
        value = getattr(saved, label)
        st.session_state[key] = list(value) if isinstance(value, tuple) else value
    return saved


def labels_of(run: RunFolder) -> Labels | None:
    """The run's labels; if they are unreadable, show why and return None."""
    try:
        return read_labels(run)
    except (DraftbenchError, TypeError, ValueError, OSError) as error:
        if (run.path / "labels.json").exists():
            ui.error_box(error if isinstance(error, DraftbenchError) else DraftbenchError(str(error)))
        return None


def _seen(mark: str) -> str:
    return f"_seen-{mark}"


def _seen_baseline(mark: str) -> str:
    return f"_seen-baseline-{mark}"
