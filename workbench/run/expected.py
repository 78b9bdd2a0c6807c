"""A part of the Serve section: a server's rate, whether the draft is worth it, gamma by batch size; variants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from engine.catalogue import SERVERS
from engine.deploy.expected import Expectations, Expected, expectations
from engine.errors import DraftbenchError
from engine.numbers import interval, ratio
from engine.records import files
from engine.runs.folder import RunFolder
from workbench.run.results import VERDICT_ICONS
from workbench.shared import chart_parts, downloads, queries, speed_charts, theme, ui

_READ = (files.SUMMARY, files.STEP_TIMES, "measure/positions.parquet", files.PROVENANCE, "draft/best/draft.json")


def expected(run: RunFolder, server: str) -> None:
    """Draw whether the draft is worth it on the server, what to pass to it, and the figures of all servers."""
    try:
        forecast = _forecast(str(run.path), _stamp(run.path))
    except DraftbenchError as error:
        ui.error_box(error)
        return
    rows = _rows(forecast, server)
    if rows:
        _one(run, rows[ui.choose_one("At", list(rows), {key: _at(row) for key, row in rows.items()}, "at")], forecast)
    with st.expander("All servers", icon=":material/table_chart:"):
        frame = table(forecast)
        st.dataframe(frame, hide_index=True, alt="What each server should report, and whether the draft is worth it")
        downloads.download_row(
            f"{run.id}-servers",
            "servers",
            frame=frame,
            caption=f"Expected of servers, run {run.id}, {chart_parts.INTERVAL}",
        )
    for note in (f"Times: {forecast.timed_on}" if forecast.timed_on else "", *forecast.notes):
        if note:
            st.caption(ui.sentence(note))


def _rows(forecast: Expectations, server: str) -> dict[str, Expected]:
    return {f"{row.temperature:g},{row.proposals}": row for row in forecast.rows if row.server == server}


def variants(run: RunFolder, server: str, gamma: int | None) -> None:
    """Draw what to change in the start command: for gamma by batch size, and to time the server without the draft.

    `gamma`: that of the command, None without one.
    """
    try:
        forecast = _forecast(str(run.path), _stamp(run.path))
    except DraftbenchError:
        return  # `expected` says why
    rows = _rows(forecast, server)
    if not rows:
        return
    row = rows[ui.chosen(list(rows), "at")]
    best = {cell.choice.best for cell in row.cells if cell.context == forecast.schedule_context}
    usual = row.temperature == 0 or row.proposals == SERVERS[server].proposals[0]
    if best == {row.gamma if gamma is None else gamma} and usual:
        whose = "run's" if gamma is None else "command's"
        st.caption(f"The {whose} gamma, {next(iter(best))}, is the best at each measured batch size.")
    elif row.schedule and row.schedule.flags:
        with st.expander(f"Gamma by batch size, at {_at(row)}", icon=":material/tune:"):
            st.write("Replaces what the command says of gamma, the draft and proposals:")
            _passed(row.schedule.flags, dict(row.schedule.files), row.schedule.notes)
    elif row.schedule:
        for note in row.schedule.notes:
            st.caption(ui.sentence(note))
    lines = [f"{key}={value}" for key, value in row.synthetic.environment] + [row.synthetic.flags]
    with st.expander("To time the server before this draft is there, with any of its size", icon=":material/timer:"):
        if any(lines):
            st.write("Replaces what the command says of gamma, the draft and proposals:")
        _passed("\n".join(filter(None, lines)), {}, row.synthetic.notes)


def _at(row: Expected) -> str:
    """'temperature 1, argmax proposals'; at temperature 0 the two rules are one."""
    return f"temperature {row.temperature:g}" + ("" if row.temperature == 0 else f", {row.proposals} proposals")


@st.cache_resource(max_entries=8, show_spinner="Walking over the held-out texts")
def _forecast(path: str, stamp: tuple[Any, ...]) -> Expectations:
    """Computed again when one of the files that it reads has changed, as `stamp` says."""
    return expectations(RunFolder(Path(path)))


def _stamp(folder: Path) -> tuple[Any, ...]:
    """When the files were written that expectations are made from."""
    return tuple(os.stat(folder / name).st_mtime_ns if (folder / name).exists() else None for name in _READ)


def table(forecast: Expectations) -> pd.DataFrame:
    """A row per server, rule and temperature."""
    return pd.DataFrame(
        {
            "server": SERVERS[row.server].title,
            "T": row.temperature,
            "proposals": "either" if row.temperature == 0 else row.proposals,
            "answer": row.worth.answer if row.worth else "not timed",
            "predicted speed-up here": ratio(row.worth.speedup) if row.worth else "not timed",
            "accepted / proposed": interval(row.rates.per_proposed),
            "its name there": row.rate_name or "not reported",
            "tokens per round": interval(row.rates.tokens_per_round, 2),
        }
        for row in forecast.rows
    )


def _one(run: RunFolder, row: Expected, forecast: Expectations) -> None:
    """The rate, the answer, and the chart of gamma by batch size of one row."""
    rate = f"its *{ui.text(row.rate_name)}*" if row.rate_name else "accepted / proposed, which it does not report,"
    st.write(
        f"At gamma {row.gamma} {rate} should be {interval(row.rates.per_proposed)}, and a round should give "
        f"{interval(row.rates.tokens_per_round, 2)} tokens by its own count, 1 + accepted / rounds."
    )
    if row.worth:
        st.info(ui.sentence(row.worth.sentence), icon=VERDICT_ICONS[row.worth.answer])
    here = {
        f"batch size {cell.batch_size}" + ("" if cell.choice.best else " (best without a draft)"): cell.choice
        for cell in row.cells
        if cell.context == forecast.schedule_context
    }
    if here:
        of = f"{chart_parts.of_run(queries.run(run.id))}; {SERVERS[row.server].title}, {_at(row)}"
        note = (
            f"context {forecast.schedule_context}, large mark: the gamma that is chosen<br>"
            f"{chart_parts.interval_note(speed_charts.predicted(here))}"
        )
        ui.chart(
            chart_parts.about(speed_charts.predicted_speedups(here, theme.mode(), note), of),
            key="predicted-speedups",
            name=f"{run.id}-predicted-speedups",
            alt="Predicted speed-up over plain decoding against gamma, a line per batch size, with intervals",
        )


def _passed(flags: str, more: dict[str, str], notes: tuple[str, ...]) -> None:
    """Draw what is to be passed, as it can be copied, and what to know about it."""
    for name, text in ({"": flags} | more).items():
        if text:
            st.caption(name) if name else None
            st.code(text, language=None, wrap_lines=True)
    for note in notes:
        st.caption(ui.sentence(note))
