"""The Run page: one run's progress, results and files, and what can be done with it.

While the run is unfinished, fragments redraw its numbers, curves and log; they read its folder, not the index.
"""

from __future__ import annotations

import streamlit as st

from engine.records.labels import Labels
from engine.runs.advice import trains
from engine.runs.folder import RunFolder
from workbench.run import controls, header, results
from workbench.run.configuration import configuration
from workbench.run.curves import curves, events
from workbench.run.export import export
from workbench.run.files import files
from workbench.run.labels import labels_form
from workbench.run.log import log
from workbench.run.origin import origin
from workbench.run.progress import progress
from workbench.run.serve import serve
from workbench.run.stage import is_timing, redraw_every
from workbench.run.training_curve import newest
from workbench.shared import actions, label_form, queries, ui

SECTIONS = ("Curves", "Log", "Configuration", "Origin", "Files", "Export", "Serve", "Labels")
_MEASURED = ("Export", "Serve")  # sections that a run has once its draft is measured
_PROGRESS_S, _SECTION_S = 2, 6  # between two redraws: figures and logs cost the server a hundred times what a bar does


def watch(run: RunFolder, drawn: tuple[str, bool]) -> None:
    """Draw the progress; redraw the whole page when the run's state, or whether it is timing, is no longer `drawn`."""
    status = run.status()
    if (header.state_of(run), is_timing(status)) != drawn:
        queries.refresh()
        st.rerun()
    progress(run, newest(events(run).points()))


def section(name: str, run: RunFolder, label: str, state: str, labels: Labels | None) -> None:
    """Draw the selected section; curves and log redraw themselves while the run is unfinished."""
    live = st.fragment(run_every=redraw_every(run.status(), _SECTION_S) if state in queries.UNFINISHED else None)
    if name == "Curves":
        live(curves)(run, label, ui.choose_axis())
    elif name == "Log":
        live(log)(run)
    elif name == "Configuration":
        configuration(run)
    elif name == "Origin":
        origin(run)
    elif name == "Files":
        files(run)
    elif name == "Export":
        export(run)
    elif name == "Serve":
        serve(run)
    elif labels is None:
        st.info("This run cannot be labelled, because its folder is incomplete.", icon=":material/broken_image:")
    else:
        tags = queries.runs().tags.dropna()
        labels_form(run, labels, sorted({str(tag) for listed in tags for tag in listed}))


def render() -> None:
    """Draw the page."""
    ui.heading("run")
    run = header.choose()
    actions.outcome()
    if run is None:
        if not st.query_params.get("run"):
            ui.empty(
                "No runs yet. A run trains one draft and measures it; the quick recipe takes a few minutes.",
                "Start a run",
                "launch",
            )
        return
    state = header.state_of(run)
    labels = label_form.labels_of(run)
    indexed = header.indexed(run)
    label = (labels.title if labels else "") or run.id
    header.title(run, state, labels)
    header.problems(run, indexed)
    header.failure(run, state)
    header.facts(run)
    controls.buttons(run, state)
    if state in queries.UNFINISHED:
        status = run.status()
        st.fragment(run_every=redraw_every(status, _PROGRESS_S))(watch)(run, (state, is_timing(status)))
    if indexed is not None and run.summary_path.is_file():
        results.results(run, indexed)
    if labels is not None and labels.notes:
        st.text(labels.notes)
    drafts = run.summary_path.is_file() and trains(run)
    offered = [name for name in SECTIONS if name not in _MEASURED or drafts]
    selected = st.segmented_control(
        "Section",
        offered,
        default="Curves",
        key="view",
        bind="query-params",
        required=True,
        label_visibility="collapsed",
    )
    section(selected or "Curves", run, label, state, labels)
