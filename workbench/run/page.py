"""One run: what it is doing, what it measured, what it was made from, and what can be done with it.

While the run is unfinished, fragments redraw its numbers, curves and log; they read its folder, not the index.
"""

from __future__ import annotations

import streamlit as st

from engine.records.labels import Labels
from engine.runs.folder import RunFolder
from workbench.run import files, folder_view, results, view
from workbench.run import labels as run_labels
from workbench.shared import actions, label_form, queries, ui

SECTIONS = ("Curves", "Log", "Configuration", "Origin", "Files", "Export", "Labels")
_PROGRESS_S, _PARTS_S = 2, 6  # between two drawings: figures and logs take the server a hundred times what a bar does


def watch(run: RunFolder, drawn: tuple[str, bool]) -> None:
    """Progress and newest numbers; draws the whole page again once what it was drawn for is no longer so."""
    status = run.status()
    if (view.state_of(run), files.is_timing(status)) != drawn:
        queries.refresh()
        st.rerun()
    view.progress(run, files.newest(view.events(run).points()))


def section(name: str, run: RunFolder, label: str, state: str, labels: Labels | None) -> None:
    """The chosen part of the page; curves and log redraw themselves while the run is unfinished."""
    live = st.fragment(run_every=files.redraw_every(run.status(), _PARTS_S) if state in queries.UNFINISHED else None)
    if name == "Curves":
        live(view.curves)(run, label, ui.choose_axis())
    elif name == "Log":
        live(view.log)(run)
    elif name == "Configuration":
        folder_view.configuration(run)
    elif name == "Origin":
        folder_view.origin(run)
    elif name == "Files":
        folder_view.files(run)
    elif name == "Export":
        folder_view.export(run)
    elif labels is None:
        st.info(
            "The labels of this run cannot be read or made: its folder is not whole.", icon=":material/broken_image:"
        )
    else:
        known = queries.runs().tags.dropna()
        run_labels.labels_form(run, labels, sorted({str(tag) for tags in known for tag in tags}))


def render() -> None:
    """Draw the page."""
    ui.heading("run")
    run = view.choose()
    actions.outcome()
    if run is None:
        if not st.query_params.get("run"):
            ui.empty(
                "There are no runs yet. A run trains one draft and measures it; the quick recipe takes minutes.",
                "Start a run",
                "launch",
            )
        return
    state = view.state_of(run)
    labels = label_form.labels_of(run)
    indexed = view.indexed(run)
    label = (labels.title if labels else "") or run.id
    view.title(run, state, labels)
    view.problems(run, indexed)
    view.failure(run, state)
    view.facts(run)
    view.buttons(run, state)
    if state in queries.UNFINISHED:
        status = run.status()
        st.fragment(run_every=files.redraw_every(status, _PROGRESS_S))(watch)(run, (state, files.is_timing(status)))
    if indexed is not None and run.summary_path.is_file():
        results.results(run, indexed)
    if labels is not None and labels.notes:
        st.text(labels.notes)
    offered = [name for name in SECTIONS if name != "Export" or run.summary_path.is_file()]
    chosen = st.segmented_control(
        "Part", offered, default="Curves", key="view", bind="query-params", required=True, label_visibility="collapsed"
    )
    section(chosen or "Curves", run, label, state, labels)
