"""The progress of an unfinished run: phase, bar, time left and newest numbers."""

from __future__ import annotations

import contextlib
import math

import streamlit as st

from engine.errors import DraftbenchError
from engine.jobs import queue
from engine.records.slurm_job import SlurmJob
from engine.records.status import Status
from engine.runs.description import whereabouts
from engine.runs.folder import RunFolder
from workbench.run import stage as stages
from workbench.run.training_curve import Now
from workbench.shared import queries, ui


def progress(run: RunFolder, newest: Now) -> None:
    """Draw phase, bar, time left and newest numbers of a queued or running run."""
    status = run.status()
    slurm = _slurm_job(run)
    where = ui.text(whereabouts(status, slurm))
    if status.state == "queued":
        st.info(f"Waiting {where}." if slurm else _queue_position(run), icon=":material/schedule:")
        return
    phase = stages.stage(status, newest)
    if status.stop_asked_at:
        waited = stages.duration(stages.since(status.stop_asked_at))
        st.warning(
            f"Stopping, requested {waited} ago: the run ends within a few seconds and keeps finished work.",
            icon=":material/stop_circle:",
        )
    heartbeat = stages.since(status.updated_at)
    st.progress(phase.share or 0.0, text=ui.text(phase.text + phase.left))
    beat = "No heartbeat yet." if heartbeat is None else f"Last heartbeat {stages.duration(heartbeat)} ago."
    st.caption(f"{beat} It is {where}." if where else beat)
    metrics = _training(newest) if newest.step is not None else _before_training(status)
    for column, (name, value, note) in zip(st.columns(len(metrics) or 1), metrics, strict=False):
        column.metric(name, value)
        column.caption(note)


def _slurm_job(run: RunFolder) -> SlurmJob | None:
    with contextlib.suppress(DraftbenchError):
        return SlurmJob.read(run.path)
    return None


def _training(newest: Now) -> list[tuple[str, str, str]]:
    """Name, value and note of loss, watched acceptance and throughput."""
    metrics = [("Loss", ui.number(newest.loss), f"after step {newest.step:,}")]
    for temperature, value in newest.acceptance:
        at = "" if temperature is None else f", T = {temperature:g}"
        metrics.append((f"Acceptance (watched){at}", ui.number(value), f"exact, after step {newest.evaluated_at:,}"))
    speed = "–" if newest.tokens_per_s is None else f"{newest.tokens_per_s:,.0f}"
    return [*metrics, ("Target tokens/s", speed, "seen in training, over the last 20 steps")]


def _before_training(status: Status) -> list[tuple[str, str, str]]:
    """Throughput of the capture, the only metric before the first training step."""
    speed = math.nan if status.progress is None else status.progress.tokens_per_s
    return [] if math.isnan(speed) else [("Target tokens/s", f"{speed:,.0f}", "written by the target")]


def _queue_position(run: RunFolder) -> str:
    """How many runs are ahead of a queued one, and what is running."""
    place = run.status().place
    if place is not None:
        return f"Waiting for a node of {ui.text(place)}. What it waits for is in its log, below."
    ids = [waiting.id for waiting in queue.waiting(queries.home())]
    if run.id not in ids:
        return "Waiting to be started."
    ahead = ids.index(run.id)
    known = queries.active()
    running = ", ".join(known[known.state == "running"].run_id)
    suffix = f" Running: {ui.text(running)}." if running else ""
    if ahead:
        return f"Queued; {ahead} run{'s' if ahead > 1 else ''} ahead of it.{suffix}"
    return f"Next in the queue.{suffix}"
