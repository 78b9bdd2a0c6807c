"""The Run page: one run's progress, results and files, and what can be done with it.

While the run is unfinished, its numbers, curves and log are drawn again when their files have changed, but not while a
run is timing its speed; they are read from its folder, not from the index.
"""

from __future__ import annotations

import streamlit as st

from engine.records.labels import Labels
from engine.runs.advice import trains
from engine.runs.folder import RunFolder
from workbench.run import controls, header, results
from workbench.run.configuration import configuration
from workbench.run.curves import curves, events
from workbench.run.files import files
from workbench.run.labels import labels_form
from workbench.run.log import log
from workbench.run.origin import origin
from workbench.run.progress import progress
from workbench.run.serve import serve
from workbench.run.training_curve import newest
from workbench.shared import actions, label_form, queries, ui, url_warnings, watch

SECTIONS = ("Curves", "Log", "Configuration", "Origin", "Files", "Serve", "Labels")
_SECTION_S = 10  # between two looks: figures and logs cost the server a hundred times what a bar does


@st.fragment
def watched(run: RunFolder, drawn: str) -> None:
    """Draw the progress; redraw the whole page when the run's state is no longer `drawn`."""
    waits = queries.active().run_id.tolist() if drawn == "queued" else []  # their turns move it forward
    ids = [run.id, *(other for other in waits if other != run.id)]
    seen = watch.marks(queries.home(), ids)
    if header.state_of(run) != drawn:
        queries.refresh()
        st.rerun()
    progress(run, newest(events(run).points()))
    watch.watch("watch-progress", ids, seen, ("state", "status"))


@st.fragment
def live_section(name: str, run: RunFolder, label: str, axis: str, state: str) -> None:
    """Draw curves or log, again when they have grown while the run is unfinished."""
    seen = watch.marks(queries.home(), [run.id])
    if name == "Curves":
        curves(run, label, axis)
    else:
        log(run)
    if state in queries.UNFINISHED:
        watch.watch("watch-section", [run.id], seen, ("events",) if name == "Curves" else ("log", "output"), _SECTION_S)


def section(name: str, run: RunFolder, label: str, state: str, labels: Labels | None) -> None:
    """Draw the selected section."""
    if name in ("Curves", "Log"):
        live_section(name, run, label, ui.choose_axis() if name == "Curves" else "", state)
    elif name == "Configuration":
        configuration(run)
    elif name == "Origin":
        origin(run)
    elif name == "Files":
        files(run)
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
        watched(run, state)
        watch.notice(run.id, label)
    if indexed is not None and run.summary_path.is_file():
        results.results(run, indexed)
    if labels is not None and labels.notes:
        st.text(labels.notes)
    drafts = run.summary_path.is_file() and trains(run)
    offered = [name for name in SECTIONS if name != "Serve" or drafts]
    offered = offered if trains(run) else [name for name in offered if name != "Curves"]
    if st.query_params.get("view") == "Export":  # a link of before, when it was a section of its own
        st.query_params["view"] = st.session_state["view"] = "Serve"
        url_warnings.handled("view")
    selected = st.segmented_control(
        "Section",
        offered,
        default=offered[0],
        key="view",
        bind="query-params",
        required=True,
        label_visibility="collapsed",
    )
    section(selected or offered[0], run, label, state, labels)
