"""What can be done with the selected runs: open, compare, label, mark, archive, remove. It stays in sight."""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.records.labels import Labels
from engine.runs.folder import RunFolder
from engine.runs.labels import change_labels, edit_labels, make_baseline
from engine.runs.removing import Removal, removal_of, remove_run
from workbench.shared import actions, label_form, queries, theme, ui

_MOST_COMPARED = 6
# Streamlit wraps each container, and the wrapper is what has room to move in. Two lines high, so that no row of the
# table moves when the buttons come.
_STICKY = """<style>
[data-testid="stLayoutWrapper"]:has(> .st-key-selection-bar){{position:sticky;top:3.6rem;z-index:90}}
.st-key-selection-bar{{background:{background};padding:.45rem 0;min-height:6rem;border-bottom:1px solid {line}}}
</style>"""


def place() -> st.delta_generator.DeltaGenerator:
    """The bar's place above the table. It is there before anything is selected, so that no row moves by a click."""
    tone = theme.TONES[theme.mode()]
    st.html(_STICKY.format(background=tone.background, line=tone.grid))
    return st.container(key="selection-bar", horizontal=True, vertical_alignment="center")


def hint() -> None:
    """What the bar says while nothing is selected."""
    st.caption("Select runs below to compare, label, mark, archive or remove them.", width="content")


def change(run_ids: list[str], message: str, **labels: Any) -> str:
    """Change these labels of every run; return the message."""
    for run_id in run_ids:
        change_labels(queries.home(), queries.folder(run_id), **labels)
    return message


def set_baseline(run_id: str, label: str, seen: str) -> str:
    """Make the run the baseline, unless another tab has made another one so since this one was drawn with `seen`."""
    make_baseline(queries.home(), queries.folder(run_id), seen)
    return f"{label} is now the baseline."


def archive(run_ids: list[str]) -> str:
    """Hide runs from lists, and say which."""
    message = f"Archived {count(run_ids)} ({', '.join(run_ids)}): hidden from lists; nothing is deleted."
    return change(run_ids, message, archived=True, pinned=False)


def count(run_ids: list[str]) -> str:
    return f"{len(run_ids)} run{'s' if len(run_ids) != 1 else ''}"


def bar(selected: pd.DataFrame, known_tags: list[str]) -> None:
    """Draw links and buttons for the selected runs."""
    ids = list(selected.run_id)
    names = ", ".join(f"**{ui.text(label)}**" for label in selected.label[:2])
    st.markdown(f"{count(ids)} selected: {names}{' …' if len(ids) > 2 else ''}", width="content")
    if len(ids) == 1:
        ui.goto("run", "Open", icon=":material/monitoring:", run=ids[0])
        ui.goto("launch", "Launch from it", icon=":material/rocket_launch:", **{"from": ids[0]})
    if 2 <= len(ids) <= _MOST_COMPARED:
        ui.goto("compare", f"Compare these {len(ids)}", icon=":material/compare_arrows:", runs=ids)
    labels_form(ids, selected, known_tags)
    mark_buttons(ids, selected)
    removal_form(ids)
    if len(ids) > _MOST_COMPARED:
        st.caption("Compare takes two to six runs.", width="content")


def removal_form(ids: list[str]) -> None:
    """Draw what removing the runs frees and what depends on them, and the button that removes them."""
    with st.popover("Remove", icon=":material/delete:", key="remove-menu"):
        removals, refused = _removals(ids)
        free = {run_id: removal for run_id, removal in removals.items() if run_id not in refused}
        megabytes = sum(removal.frees_bytes for removal in free.values()) / 1e6
        for run_id, why in refused.items():
            st.markdown(f"**{ui.text(run_id)}** stays: {ui.text(why)}")
        for run_id, removal in free.items():
            for remark in removal.remarks:
                st.markdown(f"**{ui.text(run_id)}**: {ui.text(remark)}")
        if free:
            st.markdown(f"This frees {megabytes:,.1f} MB in 24 hours; until then the runs can be restored below.")
            actions.button(
                f"Remove {count(list(free))}",
                lambda: remove(list(free)),
                key="remove",
                type="primary",
                icon=":material/delete:",
            )


def _removals(ids: list[str]) -> tuple[dict[str, Removal], dict[str, str]]:
    """What removing each run means, and why some cannot be removed now."""
    removals, refused = {}, {}
    for run_id in ids:
        try:
            removals[run_id] = removal_of(queries.home(), queries.folder(run_id))
        except DraftbenchError as error:
            refused[run_id] = f"{error.what}; {error.fix}"
    return removals, refused


def remove(ids: list[str]) -> str:
    """Move the runs to the trash. Raises DraftbenchError naming those that could not be moved."""
    kept = {}
    for run_id in ids:
        try:
            remove_run(queries.home(), queries.folder(run_id))
        except DraftbenchError as error:
            kept[run_id] = error
    if kept:
        first = next(iter(kept.values()))
        raise DraftbenchError(
            f"{len(ids) - len(kept)} of {len(ids)} runs were removed, not {', '.join(kept)}", first.what, first.fix
        )
    return f"Removed {count(ids)}. For 24 hours the list below the table brings it back."


def mark_buttons(ids: list[str], selected: pd.DataFrame) -> None:
    """Draw the buttons for pin, baseline and archive, and their opposites where they apply."""
    if not selected.pinned.all():
        actions.button(
            "Pin", lambda: change(ids, f"Pinned {count(ids)}.", pinned=True), key="pin", icon=":material/keep:"
        )
    if selected.pinned.any():
        actions.button(
            "Unpin",
            lambda: change(ids, f"Unpinned {count(ids)}.", pinned=False),
            key="unpin",
            icon=":material/keep_off:",
        )
    if len(ids) == 1 and not selected.baseline.iloc[0]:
        label, seen = selected.label.iloc[0], queries.baseline()
        actions.button(
            "Set as baseline", lambda: set_baseline(ids[0], label, seen), key="baseline", icon=":material/star:"
        )
    if selected.baseline.any():
        actions.button(
            "Unset baseline",
            lambda: change(ids, "No run is the baseline now.", baseline=False),
            key="unbaseline",
            icon=":material/star_border:",
        )
    if not selected.archived.all():
        actions.button(
            "Archive",
            lambda: archive(ids),
            key="archive",
            icon=":material/archive:",
            help="Hides the runs from lists; nothing is deleted.",
        )
    if selected.archived.any():
        actions.button(
            "Unarchive",
            lambda: change(ids, f"{count(ids)} restored to lists.", archived=False),
            key="unarchive",
            icon=":material/unarchive:",
        )


def labels_form(ids: list[str], selected: pd.DataFrame, known_tags: list[str]) -> None:
    """Draw the form for the title, tags and note of one run, or for adding tags and a note to several."""
    mark = hashlib.sha1("\n".join(ids).encode(), usedforsecurity=False).hexdigest()[:8]
    with st.popover("Title, tags, note" if len(ids) == 1 else "Tags, note", icon=":material/label:", key="label-menu"):
        if len(ids) > 1:
            many_form(ids, mark, selected, known_tags)
            return
        run = queries.folder(ids[0])
        labels = label_form.labels_of(run)
        if labels is not None:
            one_form(run, mark, labels, known_tags)


def one_form(run: RunFolder, mark: str, labels: Labels, known_tags: list[str]) -> None:
    """Draw the form for the labels of one run."""
    keys = {name: f"{name}-{mark}" for name in ("title", "tags", "notes")}
    labels = label_form.drawn_with(mark, keys, labels)

    def save() -> str:
        label_form.save(run, mark, keys)
        return "Saved."

    with st.form(f"labels-{mark}"):
        st.text_input("Title", labels.title, key=keys["title"], max_chars=120, placeholder=run.id)
        st.multiselect(
            "Tags", sorted({*known_tags, *labels.tags}), list(labels.tags), key=keys["tags"], accept_new_options=True
        )
        st.text_area("Note", labels.notes, key=keys["notes"], max_chars=20_000)
        actions.submit("Save", save, key=f"save-{mark}", icon=":material/save:")


def many_form(ids: list[str], mark: str, selected: pd.DataFrame, known_tags: list[str]) -> None:
    """Draw the form that adds tags and a note to several runs and removes tags."""
    keys = {name: f"{name}-{mark}" for name in ("tags", "drop", "notes")}
    with st.form(f"labels-{mark}"):
        st.multiselect("Add tags", known_tags, key=keys["tags"], accept_new_options=True)
        st.multiselect("Remove tags", sorted({tag for tags in selected.tags for tag in tags}), key=keys["drop"])
        st.text_area("Add to each note", key=keys["notes"])
        actions.submit("Save", lambda: save_many(ids, keys), key=f"save-{mark}", icon=":material/save:")


def save_many(ids: list[str], keys: dict[str, str]) -> str:
    """Add tags and a note to each run's own, and remove tags."""
    state = st.session_state

    def added(present: Labels) -> dict[str, Any]:
        tags = [tag for tag in (*present.tags, *state[keys["tags"]]) if tag not in state[keys["drop"]]]
        notes = "\n\n".join(part for part in (present.notes, state[keys["notes"]].strip()) if part)
        return {"tags": tags, "notes": notes}

    for run_id in ids:
        edit_labels(queries.home(), queries.folder(run_id), added)
    return f"Saved for {count(ids)}."
