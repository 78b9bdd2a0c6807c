"""The buttons of a run's page: cancel, resume, run again, and links to other pages."""

from __future__ import annotations

import streamlit as st

from engine.errors import DraftbenchError
from engine.jobs.executors import chosen_place, place_of
from engine.runs.advice import trains
from engine.runs.folder import RunFolder
from engine.traces.measured import holds_traces
from workbench.live.drafts import has_draft
from workbench.shared import actions, queries, ui


def buttons(run: RunFolder, state: str) -> None:
    """Draw the actions that the run's state allows, and links to other pages."""
    home, has_recipe = queries.home(), (run.path / "config.yaml").is_file()
    measured = run.summary_path.is_file()
    with st.container(horizontal=True, vertical_alignment="center"):
        if state in queries.UNFINISHED:
            stopping = run.status().stop_asked_at is not None
            actions.button(
                "Stop now" if stopping else "Cancel",
                lambda: place_of(run).cancel(home, run),
                key=f"cancel-{run.id}",
                icon=":material/dangerous:" if stopping else ":material/stop_circle:",
                help=f"Stops without waiting for the next safe point: {_lost(run)} is lost. The run can be resumed."
                if stopping
                else "Stops within five seconds and keeps finished work. The run can be resumed.",
            )
        if has_recipe and (state in ui.RESUMABLE or (state == "damaged" and not measured)):
            actions.button(
                "Resume",
                lambda: _resume(run),
                key=f"resume-{run.id}",
                type="primary",
                icon=":material/play_arrow:",
                help="Continues from the last checkpoint. The final weights equal those of an uninterrupted run."
                if trains(run)
                else "Measures again; answers of the target that are kept are reused.",
            )
        if has_recipe:
            actions.button(
                "Run again",
                lambda: _again(run),
                key=f"again-{run.id}",
                icon=":material/replay:",
                help="Starts a new run from the same recipe and seed; captures are reused.",
            )
            ui.goto("launch", "Edit and run", icon=":material/rocket_launch:", **{"from": run.id})
        if measured and _has_rates(run):
            base = queries.runs().query("baseline and run_id != @run.id").run_id.tolist()
            ui.goto(
                "compare",
                "Compare with the baseline" if base else "Compare",
                icon=":material/compare_arrows:",
                runs=[*base[:1], run.id],
            )
        if measured and holds_traces(run):  # most sample runs are stored without
            ui.goto("replay", "Replay traces", icon=":material/history:", run=run.id)
        if has_draft(home, run.id):  # some measured runs are stored without weights
            ui.goto("live", "Try it live", icon=":material/play_circle:", run=run.id)
    new = st.session_state.get("_new_run")
    if new and new[0] == run.id:
        ui.goto("run", "Open the new run", icon=":material/arrow_forward:", run=new[1])


def _has_rates(run: RunFolder) -> bool:
    """Whether there is acceptance to compare: a target alone has none."""
    try:
        return queries.run(run.id).summary.subject != "target alone"
    except DraftbenchError:
        return False


def _lost(run: RunFolder) -> str:
    return "work since the last checkpoint" if trains(run) else "the measurement so far"


def _resume(run: RunFolder) -> str:
    place_of(run).resume(queries.home(), run)
    how = "continue from its last checkpoint" if trains(run) else "measure again"
    return f"Run {run.id} is queued and will {how}."


def _again(run: RunFolder) -> str:
    (new,) = chosen_place().submit_all(queries.home(), [run.recipe()])
    st.session_state["_new_run"] = (run.id, new.id)
    return f"Run {new.id} is queued."
