"""The Curves section of a run's page: loss and watched acceptance, and an online run's stream."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from engine.records.events import FILE as EVENTS
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder
from workbench.run import stream_chart
from workbench.run.training_curve import EventTail, curve_frame
from workbench.shared import chart_parts, downloads, learning_curve, queries, theme, ui


def events(run: RunFolder) -> EventTail:
    """The visitor's reader of the run's events, which remembers how far it has read."""
    tail = st.session_state.get("_events")
    if not isinstance(tail, EventTail) or tail.path != run.path / EVENTS:
        tail = st.session_state["_events"] = EventTail(run.path / EVENTS)
    return tail


def curves(run: RunFolder, label: str, axis: str) -> None:
    """Draw loss and watched acceptance side by side, and for an online run acceptance along its stream."""
    points, streamed = events(run).points(), events(run).stream()
    if not points and not streamed:
        st.info("No training step yet; the curves begin with the first one.", icon=":material/show_chart:")
        return
    frame, tone = curve_frame(run.id, points), theme.mode()
    every = curve_frame(run.id, points, most=max(1, len(points)))
    left, right = st.columns(2)
    with left:
        _curve(frame, every, axis, "train", run, label, tone, "")
    with right:
        _curve(frame, every, axis, "eval", run, label, tone, _watched(run))
    if streamed:
        _stream(stream_chart.along(streamed), run, label, tone)


def _curve(
    frame: pd.DataFrame, every: pd.DataFrame, axis: str, kind: str, run: RunFolder, label: str, tone: str, note: str
) -> None:
    """Draw one curve. `every` has all points, for the data file; a long curve is drawn with fewer."""
    part = frame[frame.kind == kind]
    if part.empty:
        st.caption("No evaluation yet." if kind == "eval" else "No training step yet.")
        return
    figure = learning_curve.draw(frame, axis, kind, {run.id: "this run"}, tone, note)
    last = part.iloc[-1]
    what = "Training loss" if kind == "train" else "Exact acceptance of the watched prompts"
    alt = f"{what} of {label} up to step {last.step}: {ui.number(last.value)} at the end"
    _chart(figure, every[every.kind == kind], f"curve-{kind}", alt, f"{run.id}-{kind}-by-{axis}", run)


def _stream(frame: pd.DataFrame, run: RunFolder, label: str, tone: str) -> None:
    _chart(
        stream_chart.figure(frame, tone), frame, "curve-stream", stream_chart.alt(frame, label), f"{run.id}-stream", run
    )
    st.caption(
        "Each query was answered with the draft at that time; a mark on the axis is an update of the draft. "
        "accepted / examined counts a token as examined if it was accepted or was the first to be rejected. "
        "The two lines differ only by chance."
    )


def _chart(figure: Any, frame: pd.DataFrame, key: str, alt: str, name: str, run: RunFolder) -> None:
    """Draw a figure with a menu to save it and its data."""
    figure = chart_parts.about(figure, _subject(str(run.path), run.id))
    ui.chart(figure, key=key, alt=alt, name=name, save=False)
    with st.popover("Save", icon=":material/download:", type="tertiary", key=f"save-{key}"):
        downloads.download_row(name, key, draw=lambda tone: figure, frame=frame, caption=alt)


@st.cache_data(max_entries=64, show_spinner=False)  # a run's recipe does not change
def _subject(folder: str, run_id: str) -> str:
    """The run with its domain and target, for the second line of a figure."""
    return chart_parts.of_run(queries.run(run_id))


def _watched(run: RunFolder) -> str:
    """The number of watched prompts, as a note for the chart."""
    watched = Provenance.read_or_empty(run.path).prompts.watched
    return f"n = {watched} watched prompts, no interval" if watched else "watched prompts only, no interval"
