"""The parts of a run's page: what it is doing now, its log, what was measured, and what it was made from."""

from __future__ import annotations

import difflib
import math
from typing import Any

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.index.queries import Run
from engine.jobs import queue
from engine.jobs.executors import chosen_place
from engine.records.events import FILE as EVENTS
from engine.records.labels import Labels
from engine.records.provenance import Provenance
from engine.records.status import Status
from engine.records.training import Training
from engine.runs.folder import RunFolder
from engine.traces.measured import holds_traces
from workbench.live.decode import has_draft
from workbench.run import facts as run_facts
from workbench.run import files, stream_view
from workbench.shared import actions, charts, downloads, queries, theme, ui

UNFINISHED = queries.UNFINISHED


def choose() -> RunFolder | None:
    """The run of the address `?run=`, with a picker; the newest if none is named. None if it cannot be shown."""
    asked = st.query_params.get("run")
    known = queries.runs()
    if asked:
        try:
            folder = queries.folder(asked)
        except DraftbenchError as error:
            _unknown(asked, error, known)
            return None
        if folder.id != asked:  # 'latest', or the beginning of an id
            st.query_params["run"] = folder.id
        asked = folder.id
    shown = known[~known.archived | (known.run_id == asked)]
    options = list((shown if len(shown) else known).run_id)
    options = [asked, *options] if asked and asked not in options else options
    if not options:
        return None
    labels = {i: label if label == i else f"{label} ({i})" for i, label in zip(known.run_id, known.label, strict=True)}
    return RunFolder(queries.home().run(ui.choose_one("Run", options, labels, "run")))


def _unknown(asked: str, error: DraftbenchError, known: pd.DataFrame) -> None:
    """Say what is wrong with the address, and lead to runs that it may have meant."""
    ui.error_box(error)
    near = difflib.get_close_matches(asked, list(known.run_id), n=3, cutoff=0.4)
    for run_id in near:
        ui.goto("run", ui.text(run_id), icon=":material/monitoring:", run=run_id)
    ui.goto("runs", "All runs", icon=":material/table_rows:")


def state_of(run: RunFolder) -> str:
    """What the run is doing now; a status that says nothing counts as damaged."""
    state = run.status().state
    return state if state in ui.STATES else "damaged"


def title(run: RunFolder, state: str, labels: Labels | None) -> None:
    """Name, state in words, and what was done to the run by hand."""
    st.subheader(ui.text((labels and labels.title) or run.id), anchor=False)
    words = [f"{ui.state_badge(state)} {ui.STATES[state][2]}"]
    if labels is not None:
        marks = (("★ baseline", labels.baseline), ("● pinned", labels.pinned), ("▣ archived", labels.archived))
        words += [word for word, holds in marks if holds]
        words += [f":gray-badge[{ui.text(tag)}]" for tag in labels.tags]
    st.markdown(" · ".join(words[:1]) + ("  " + " ".join(words[1:]) if words[1:] else ""))


def failure(run: RunFolder, state: str) -> None:
    """Why a run failed, in the words it left behind."""
    error = run.status().error
    if state == "failed" and error is not None:
        ui.error_box(DraftbenchError(error.what or "no reason was noted", error.why, error.fix))


def problems(run: RunFolder, indexed: Run | None) -> None:
    """What of the folder cannot be read."""
    found = list(indexed.problems) if indexed else []
    if not (run.path / "config.yaml").is_file():
        found.append("config.yaml: missing, so the run cannot be resumed, measured or compared")
    if found:
        lines = "\n".join(f"- {ui.text(problem)}" for problem in found)
        st.warning(
            f"This run's folder is not whole. What can be read is shown.\n\n{lines}", icon=":material/broken_image:"
        )


def buttons(run: RunFolder, state: str) -> None:
    """What can be done with the run in its present state."""
    home, has_recipe = queries.home(), (run.path / "config.yaml").is_file()
    measured = run.summary_path.is_file()
    with st.container(horizontal=True, vertical_alignment="center"):
        if state in UNFINISHED:
            asked = run.status().stop_asked_at is not None
            actions.button(
                "Stop at once" if asked else "Cancel",
                lambda: chosen_place().cancel(home, run),
                key=f"cancel-{run.id}",
                icon=":material/dangerous:" if asked else ":material/stop_circle:",
                help="Does not wait for the next safe point: work since the last checkpoint is lost. It can be resumed."
                if asked
                else "Stops at the next safe point and keeps what is finished. It can be resumed.",
            )
        if has_recipe and (state in ui.RESUMABLE or (state == "damaged" and not measured)):
            actions.button(
                "Resume",
                lambda: _resume(run),
                key=f"resume-{run.id}",
                type="primary",
                icon=":material/play_arrow:",
                help="Goes on from the last checkpoint, and ends with the same weights as an unbroken run.",
            )
        if has_recipe:
            actions.button(
                "Run again",
                lambda: _again(run),
                key=f"again-{run.id}",
                icon=":material/replay:",
                help="A new run from the same recipe and seed; captures are reused.",
            )
            ui.goto("launch", "Change and run", icon=":material/rocket_launch:", **{"from": run.id})
        if measured:
            base = queries.runs().query("baseline and run_id != @run.id").run_id.tolist()
            ui.goto(
                "compare",
                "Compare with the baseline" if base else "Compare",
                icon=":material/compare_arrows:",
                runs=[*base[:1], run.id],
            )
        if measured and holds_traces(run):  # most samples were kept without
            ui.goto("replay", "Replay its tokens", icon=":material/history:", run=run.id)
        if has_draft(home, run.id):  # not every measured run has its weights here
            ui.goto("live", "Try it live", icon=":material/play_circle:", run=run.id)
    new = st.session_state.get("_new_run")
    if new and new[0] == run.id:
        ui.goto("run", "Open the new run", icon=":material/arrow_forward:", run=new[1])


def _resume(run: RunFolder) -> str:
    chosen_place().resume(queries.home(), run)
    return f"Run {run.id} waits in the queue and goes on from where it stopped."


def _again(run: RunFolder) -> str:
    (new,) = chosen_place().submit_all(queries.home(), [run.recipe()])
    st.session_state["_new_run"] = (run.id, new.id)
    return f"Run {new.id} waits in the queue."


def events(run: RunFolder) -> files.EventTail:
    """The visitor's own reader of the run's events, which remembers how far it has read."""
    tail = st.session_state.get("_events")
    if not isinstance(tail, files.EventTail) or tail.path != run.path / EVENTS:
        tail = st.session_state["_events"] = files.EventTail(run.path / EVENTS)
    return tail


def progress(run: RunFolder, present: files.Now) -> None:
    """Phase, bar, time left and the newest numbers of a run that waits or is at work."""
    status = run.status()
    if status.state == "queued":
        st.info(_place(run), icon=":material/schedule:")
        return
    stage = files.stage(status, present)
    if status.stop_asked_at:
        waited = files.duration(files.since(status.stop_asked_at))
        st.warning(
            f"Stopping, asked {waited} ago: it ends at its next safe point and keeps what is finished.",
            icon=":material/stop_circle:",
        )
    if files.is_timing(status):
        st.caption("Speed is being timed: this page is drawn seldom now, so that it does not take the clock's cores.")
    beat = files.since(status.updated_at)
    left = f", about {files.duration(stage.left_s)} left in this phase" if stage.left_s is not None else ""
    st.progress(stage.share or 0.0, text=ui.text(stage.words + left))
    st.caption(f"Heard from {files.duration(beat)} ago." if beat is not None else "Not heard from yet.")
    told = _training(present) if present.step is not None else _before_training(status)
    if not told:
        return
    for place, (name, value, note) in zip(st.columns(len(told)), told, strict=True):
        place.metric(name, value)
        place.caption(note)


def _training(present: files.Now) -> list[tuple[str, str, str]]:
    """Loss, watched acceptance and throughput, each with what it is of."""
    told = [("Loss", ui.number(present.loss), f"after step {present.step:,}")]
    for temperature, value in present.acceptance:
        at = "" if temperature is None else f", T = {temperature:g}"
        told.append((f"Acceptance (watched){at}", ui.number(value), f"exact, after step {present.evaluated_at:,}"))
    speed = "–" if present.tokens_per_s is None else f"{present.tokens_per_s:,.0f}"
    return [*told, ("Target tokens/s", speed, "seen in training, over the last 20 steps")]


def _before_training(status: Status) -> list[tuple[str, str, str]]:
    """Before the first step only the capture has a throughput."""
    speed = math.nan if status.progress is None else status.progress.tokens_per_s
    return [] if math.isnan(speed) else [("Target tokens/s", f"{speed:,.0f}", "written by the target")]


def _place(run: RunFolder) -> str:
    """How many runs are before a waiting one."""
    ids = [waiting.id for waiting in queue.waiting(queries.home())]
    if run.id not in ids:
        return "Waits to be started."
    ahead = ids.index(run.id)
    known = queries.active()
    at_work = [*known[known.state == "running"].run_id]
    behind = f" {ui.text(', '.join(at_work))} is at work." if at_work else ""
    if ahead:
        return f"Waits; {ahead} run{'s' if ahead > 1 else ''} before it in the queue.{behind}"
    return f"Next in the queue.{behind}"


def facts(run: RunFolder) -> None:
    """Mode, supervision and effort, if the recipe can be read."""
    try:
        recipe = run.recipe()
    except (DraftbenchError, OSError, ValueError, RecursionError):
        return  # `problems` says so
    run_facts.show(recipe, run_facts.effort(Training.read_or_empty(run.path), events(run).skipped()))


def curves(run: RunFolder, label: str, axis: str) -> None:
    """Loss and watched acceptance so far, side by side; of an online run what became of its stream, too."""
    points, streamed = events(run).points(), events(run).stream()
    if not points and not streamed:
        st.info("No training step is done yet; the curves begin with the first one.", icon=":material/show_chart:")
        return
    frame, tone = files.curve_frame(run.id, points), theme.mode()
    every = files.curve_frame(run.id, points, most=max(1, len(points)))
    left, right = st.columns(2)
    with left:
        _curve(frame, every, axis, "train", run, label, tone, "")
    with right:
        _curve(frame, every, axis, "eval", run, label, tone, _watched(run))
    if streamed:
        _stream(stream_view.along(streamed), run, label, tone)


def _curve(
    frame: pd.DataFrame, every: pd.DataFrame, axis: str, kind: str, run: RunFolder, label: str, tone: str, note: str
) -> None:
    """One of the curves; `every` has the points that a long curve is drawn without, for the file of numbers."""
    part = frame[frame.kind == kind]
    if part.empty:
        st.caption("No evaluation yet." if kind == "eval" else "No training step yet.")
        return
    figure = charts.learning_curve(frame, axis, kind, {run.id: "this run"}, tone, note)
    last = part.iloc[-1]
    what = "Training loss" if kind == "train" else "Exact acceptance of the watched prompts"
    alt = f"{what} of {label} up to step {last.step}: {ui.number(last.value)} at the end"
    _chart(figure, every[every.kind == kind], f"curve-{kind}", alt, f"{run.id}-{kind}-by-{axis}")


def _stream(frame: pd.DataFrame, run: RunFolder, label: str, tone: str) -> None:
    _chart(stream_view.figure(frame, tone), frame, "curve-stream", stream_view.alt(frame, label), f"{run.id}-stream")
    st.caption(
        "Each query was answered with the draft as it was then; a mark on the axis is an update of the draft. "
        "accepted / examined counts a token as examined if it was accepted or the first to be refused. "
        "The two lines differ by the luck of the draws alone."
    )


def _chart(figure: Any, frame: pd.DataFrame, key: str, alt: str, name: str) -> None:
    """A figure with everything it can be saved as under one button."""
    ui.chart(figure, key=key, alt=alt, name=name, save=False)
    with st.popover("Save", icon=":material/download:", type="tertiary", key=f"save-{key}"):
        downloads.download_row(name, key, draw=lambda tone: figure, frame=frame, caption=alt)


def _watched(run: RunFolder) -> str:
    """n of the evaluations during training, as the run noted it."""
    watched = Provenance.read_or_empty(run.path).prompts.watched
    return f"n = {watched} watched prompts, no interval" if watched else "watched prompts only, no interval"


def log(run: RunFolder) -> None:
    """The end of the run's log or of its process's output, with a search."""
    which, search, lines, wrap = st.columns([2, 4, 2, 1.4], vertical_alignment="bottom")
    name = which.selectbox(
        "Log",
        list(files.LOGS),
        key="log",
        bind="query-params",
        help="log.txt: what the run did. output.txt: what its process printed, bars and warnings too.",
    )
    needle = search.text_input(
        "Search in the log", key="find", bind="query-params", type="search", placeholder="lines that hold …"
    )
    most = int(lines.selectbox("Last lines", [200, 1000, 5000], key="lines", bind="query-params"))
    wrapped = wrap.toggle("Wrap", value=True, key="wrap", bind="query-params")
    if not (run.path / name).is_file():
        st.info(f"There is no {name} yet: {files.LOGS[name]}.", icon=":material/subject:")
        return
    part = files.log_part(run.path / name, most, needle or "")
    with st.container(height=440, autoscroll=True, border=False):  # a log is read from its end
        st.code(part.text or ("(no such line)" if needle else "(empty)"), language=None, wrap_lines=wrapped)
    told = f"{part.shown:,} of {part.found:,} lines" + (" that hold the search text" if needle else "")
    st.caption(told + ("; only the end of this long file was looked through." if part.cut else "."))


def indexed(run: RunFolder) -> Run | None:
    """The run as the index knows it; None if the index could not take it in."""
    try:
        return queries.run(run.id)
    except DraftbenchError:
        return None
