"""A part of the Serve section: check the pair, write the draft as the server loads it, with progress and a stop."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.runs.advice import gives_a_draft, has_weights
from engine.runs.folder import RunFolder
from workbench.run import export_job, preflight_job
from workbench.run.export_form import chosen, fields
from workbench.run.pair import checked_pair
from workbench.run.stage import duration, since
from workbench.shared import actions, queries, ui, watch

_PLACE = "export"  # of the messages


def export(run: RunFolder, server: str) -> None:
    """Draw the form that writes an export for the server and the outcome of the last, or the progress of one."""
    last = export_job.read(run)
    if last.state == "running":
        _exporting(run)
        stopping = bool(last.started.stop_asked_at)
        actions.button(
            "Stop the export",
            lambda: export_job.stop(run),
            key=f"export-stop-{run.id}",
            place=_PLACE,
            icon=":material/stop_circle:",
            disabled=stopping,
            help="It ends within five seconds and leaves no half folder.",
        )
    else:
        _form(run, server)
    actions.outcome(_PLACE)
    checked_pair(run, server)
    if last.state != "running":
        _exported(last)


def _form(run: RunFolder, server: str) -> None:
    """Without the draft's weights the pair can be checked, and not written."""
    card, here = SERVERS[server], has_weights(run)
    st.write(
        "Writes the draft as the server loads it, with a start script, then measures what was written. A pair that the "
        "server would refuse by its own rules is refused before; *Check the pair* says so at once and writes nothing."
    )
    if not here:
        st.info(ui.sentence(f"The draft's weights are not here: {gives_a_draft(run)}."), icon=":material/folder_off:")
    with st.form(f"serve-{server}-{run.id}"):
        fields(run, server)
        left, right = st.columns(2)
        key = {name: f"serve-{name}-{server}-{run.id}" for name in ("overwrite", "check")}
        left.toggle("Replace an earlier export", key=key["overwrite"])
        right.toggle(
            "Measure the export",
            True,
            key=key["check"],
            help="Loads the folder with plain Transformers and measures the same prompts. Takes a minute or more.",
        )
        with st.container(horizontal=True):
            actions.submit(
                "Check the pair",
                lambda: _check(run, server, key),
                key=f"preflight-{server}-{run.id}",
                place=_PLACE,
                icon=":material/rule:",
                disabled=preflight_job.read(run, server).state == "running",
            )
            actions.submit(
                f"Export for {card.title}",
                lambda: _start(run, server, key),
                key=f"serve-go-{server}-{run.id}",
                place=_PLACE,
                icon=":material/upload:",
                disabled=not here,
            )


def _check(run: RunFolder, server: str, key: Mapping[str, str]) -> str:
    overwrite = bool(st.session_state.get(key["overwrite"]))
    return preflight_job.start(queries.home(), run, server, *chosen(run, server), overwrite=overwrite)


def _start(run: RunFolder, server: str, key: Mapping[str, str]) -> str:
    folder, options = chosen(run, server)
    overwrite, check = (bool(st.session_state.get(key[name])) for name in ("overwrite", "check"))
    return export_job.start(queries.home(), run, server, folder, overwrite=overwrite, check=check, more=options)


@st.fragment
def _exporting(run: RunFolder) -> None:
    seen = watch.marks(queries.home(), [run.id])
    now = export_job.read(run)
    if now.state != "running":
        st.rerun()
    number, total, words = now.step or (1, 1, "")
    share = (number - 1) / total if now.step else 0.0
    counted = f"Step {number} of {total}: {words}" if now.step else "Starting a process for it"
    st.progress(share, text=ui.text(f"{counted}; {duration(since(now.started.started_at))} so far"))
    st.caption(ui.text(f"To {now.folder}{_of(now)}. It continues when you close this page."))
    if now.output:
        with st.expander("What it printed", icon=":material/subject:"):
            st.code(now.output, language=None, wrap_lines=True)
    watch.watch("watch-export", [run.id], seen, ("clock",), 2.0)


def _of(export: export_job.Export) -> str:
    server = export.started.server
    return f" for {SERVERS[server].title}" if server in SERVERS else ""


def _exported(last: export_job.Export) -> None:
    """Show the outcome of the last export."""
    where = f"{last.folder}{_of(last)}"
    if last.state == "done":
        checked = "; ".join(
            f"T = {row.temperature:g}: {row.run:.3f} (run), {row.exported:.3f} (export)" for row in last.report.checked
        )
        st.success(
            ui.text(
                f"Written to {where}, {last.report.megabytes:.0f} MB. "
                + (f"It measures the same: {checked}." if checked else "Not measured again.")
            )
        )
    elif last.state == "stopped":
        left = (
            f"The folder {last.folder} is complete, but was not measured." if last.written else "Nothing was written."
        )
        st.warning(ui.text(f"The export{_of(last)} was stopped. {left}"), icon=":material/stop_circle:")
    elif last.state == "differs":
        ui.error_box(
            DraftbenchError(
                f"the draft written to {where} does not measure the same as the run",
                "in service it would not perform as measured",
                "do not use it; export again, and report this if it happens again",
            )
        )
    elif last.state == "failed":
        ui.error_box(DraftbenchError(f"the export to {where} failed", "", "fix the error below, then export again"))
    if last.state in ("differs", "failed") and last.output:
        st.code(last.output, language=None, wrap_lines=True)
