"""A run that Home has started: its progress, and in the end what it says."""

from __future__ import annotations

import streamlit as st

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.jobs.executors import chosen_place
from engine.measure.decision import decide
from engine.planning.bounded_checks import checked
from engine.records.speed import Speed
from engine.runs.advice import trains
from engine.runs.folder import RunFolder
from workbench.run.results import decision_box
from workbench.run.stage import stage
from workbench.run.training_curve import Now
from workbench.shared import queries, ui, watch

_WAYS = {
    "plain": "plain decoding",
    "speculative": "with the draft",
    "transformers": "Transformers' own generate",
    "served": "the server",
}


def start(recipe: Recipe, param: str) -> str:
    """Queue a run and keep its id in the address under `param`; what to say.

    Raises DraftbenchError, and starts nothing, if a check finds what the run would stumble over.
    """
    failed = [check for check in checked(queries.home(), recipe) if not check.ok]
    if failed:
        first, more = failed[0], f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise DraftbenchError(f"not started: {first.name}: {first.message}{more}", "the run would fail", first.fix)
    (run,) = chosen_place().submit_all(queries.home(), [recipe])
    st.query_params[param] = run.id
    return f"{run.id} has begun, or waits for its turn."


def run_named(param: str) -> RunFolder | None:
    """The run that the address names; one that is gone is said to be."""
    kept = f"home:{param}"  # the address of a link from the sidebar names no run
    run_id = st.query_params.get(param) or st.session_state.get(kept)
    if not run_id:
        return None
    st.session_state[kept] = run_id
    try:
        return queries.folder(run_id)
    except DraftbenchError as error:
        st.session_state.pop(kept, None)
        ui.error_box(error)
        return None


def is_done(run: RunFolder) -> bool:
    """Whether the run has a measurement."""
    return run.status().state == "done" and run.summary_path.is_file()


def show(run: RunFolder, heading: str) -> None:
    """Draw a run: its progress while it works, its outcome afterwards, and a link to it."""
    status = run.status()
    with st.container(border=True):
        st.markdown(f"**{heading}** {ui.state_badge(status.state)}")
        if status.state in queries.UNFINISHED:
            _progress(run, status.state)
        elif is_done(run):
            _measured(run)
        elif status.error is not None:
            ui.error_box(DraftbenchError(status.error.what or "the run has failed", status.error.why, status.error.fix))
        with st.container(horizontal=True, gap="medium"):
            ui.goto("run", "Open the run", icon=":material/monitoring:", run=run.id)
            if is_done(run) and trains(run):
                ui.goto("run", "Export and serve it", icon=":material/upload:", run=run.id, view="Serve")


@st.fragment
def _progress(run: RunFolder, drawn: str) -> None:
    """The bar; the page is drawn anew when the run is no longer in the state `drawn`."""
    seen, status = watch.marks(queries.home(), [run.id]), run.status()
    if status.state != drawn:
        queries.refresh()
        st.rerun()
    if status.state == "queued":
        st.caption("It waits for its turn.")
    else:
        phase = stage(status, Now())
        stopping = "stopping; " if status.stop_asked_at else ""
        st.progress(phase.share or 0.0, text=ui.text(stopping + phase.text + phase.left))
    watch.watch(f"watch-{run.id}", [run.id], seen, ("state", "status"))


def _measured(run: RunFolder) -> None:
    """The verdict, and the figures it rests on."""
    summary = run.summary()
    speed = summary.speed or Speed()
    decision_box(decide(summary), run)
    figures = [
        (f"tokens/s, {_WAYS[way]}", f"{rate.value:.1f}", ui.interval_line(rate, 1))
        for way, rate in speed.tokens_per_s.items()
        if way in _WAYS
    ]
    for row in summary.of("trained", "exact")[:1]:
        figures.insert(
            0,
            (f"acceptance, T = {row.temperature:g}", ui.number(row.value), ui.interval_line(row)),
        )
    if figures:
        for column, (label, value, note) in zip(st.columns(len(figures)), figures, strict=True):
            column.metric(label, value)
            column.caption(ui.text(note))
