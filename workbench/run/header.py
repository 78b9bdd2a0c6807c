"""The top of a run's page: run picker, name, state, facts of the recipe, and what went wrong."""

from __future__ import annotations

import difflib

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.index.queries import Run
from engine.records.labels import Labels
from engine.records.training import Training
from engine.runs.advice import trains
from engine.runs.draft_size import draft_size
from engine.runs.folder import RunFolder
from workbench.run import facts as run_facts
from workbench.run.curves import events
from workbench.shared import pickers, queries, ui, url_warnings


def choose() -> RunFolder | None:
    """The run that the URL's `?run=` names, or one that works, with a picker. None if it cannot be shown."""
    run_id = st.query_params.get("run")
    known = queries.runs()
    if run_id:
        try:
            folder = RunFolder.open(queries.home(), run_id)
        except DraftbenchError as error:
            _suggest_others(run_id, error, known)
            return None
        if folder.id != run_id:  # 'latest', or the beginning of an id: the same run under its whole name
            url_warnings.handled("run")
            st.query_params["run"] = folder.id
    chosen = pickers.choose_run("Run")
    return RunFolder(queries.home().run(chosen)) if chosen else None


def _suggest_others(run_id: str, error: DraftbenchError, known: pd.DataFrame) -> None:
    """Show what is wrong with the URL, and link to runs with a similar id."""
    ui.error_box(error)
    for similar in difflib.get_close_matches(run_id, list(known.run_id), n=3, cutoff=0.4):
        ui.goto("run", ui.text(similar), icon=":material/monitoring:", run=similar)
    ui.goto("runs", "All runs", icon=":material/table_rows:")


def state_of(run: RunFolder) -> str:
    """The run's current state; an unknown one counts as damaged."""
    state = run.status().state
    return state if state in ui.STATES else "damaged"


def indexed(run: RunFolder) -> Run | None:
    """The run's entry in the index; None if it could not be indexed."""
    try:
        return queries.run(run.id)
    except DraftbenchError:
        return None


def title(run: RunFolder, state: str, labels: Labels | None) -> None:
    """Draw the name, the state in words, marks and tags."""
    name = (labels and labels.title) or run.id
    ui.tab_title(name, "Run")
    st.subheader(ui.text(name), anchor=False)
    words = ui.STATES[state][2] if state != "done" or trains(run) else "measured; nothing was trained"
    parts = [f"{ui.state_badge(state)} {words}"]
    if run.status().stop_asked_at:
        parts = [":orange-badge[:material/stop_circle: stopping] ends within a few seconds; can be resumed"]
    if labels is not None:
        marks = {"★ baseline": labels.baseline, "● pinned": labels.pinned, "▣ archived": labels.archived}
        extras = [mark for mark, holds in marks.items() if holds]
        extras += [f":gray-badge[{ui.text(tag)}]" for tag in labels.tags]
        parts += [" ".join(extras)] if extras else []
    st.markdown("  ".join(parts))


def failure(run: RunFolder, state: str) -> None:
    """Show the error that a failed run has recorded."""
    error = run.status().error
    if state == "failed" and error is not None:
        ui.error_box(DraftbenchError(error.what or "the run recorded no reason", error.why, error.fix))


def problems(run: RunFolder, indexed: Run | None) -> None:
    """Warn about missing and unreadable parts of the folder."""
    listed = list(indexed.problems) if indexed else []
    if not (run.path / "config.yaml").is_file():
        listed.append("config.yaml: missing, so the run cannot be resumed, measured or compared")
    if listed:
        lines = "\n".join(f"- {ui.text(problem)}" for problem in listed)
        st.warning(
            f"This run's folder is incomplete. The readable parts are shown.\n\n{lines}",
            icon=":material/broken_image:",
        )


def facts(run: RunFolder) -> None:
    """Draw mode, supervision and effort, if the recipe is readable."""
    try:
        recipe = run.recipe()
    except (DraftbenchError, OSError, ValueError, RecursionError):
        return  # reported by `problems`
    done = run_facts.effort(Training.read_or_empty(run.path), events(run).skipped())
    run_facts.show(recipe, done, draft_size(run))
