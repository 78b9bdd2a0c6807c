"""What the server would say to a run's pair, by the last check of it."""

from __future__ import annotations

import streamlit as st

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.runs.folder import RunFolder
from workbench.run import export_job, preflight_job
from workbench.shared import queries, ui, watch

_LEVELS = {"refused": ":material/block:", "warning": ":material/warning:"}


def checked_pair(run: RunFolder, server: str) -> None:
    """Draw the outcome of the last check, or that one is at work; nothing if an export has checked the pair since."""
    check = preflight_job.read(run, server)
    if is_outdated(run, server, check):
        return
    if check.state == "running":
        _checking(run, server)
    elif check.state == "done":
        _findings(server, check)
    elif check.state == "failed":
        ui.error_box(
            DraftbenchError(check.error.what, check.error.why, check.error.fix)
            if check.error.what
            else DraftbenchError("the check failed", check.output, "fix the error, then check again")
        )


def is_outdated(run: RunFolder, server: str, check: preflight_job.Preflight) -> bool:
    """Whether an export for the server began after the check, with settings that may be others."""
    last = export_job.read(run).started
    return last.server == server and last.started_at > check.started.started_at


def is_refused(report: preflight_job.Report) -> bool:
    """Whether the server would not serve the pair."""
    return any(finding.level == "refused" for finding in report.preflight)


@st.fragment
def _checking(run: RunFolder, server: str) -> None:
    seen = watch.marks(queries.home(), [run.id])
    if preflight_job.read(run, server).state != "running":
        st.rerun()
    st.info("Reading settings and tokenizers of both models.", icon=":material/progress_activity:")
    watch.watch("watch-preflight", [run.id], seen, ("clock",), 2.0)


def _findings(server: str, check: preflight_job.Preflight) -> None:
    title, report = SERVERS[server].title, check.report
    if is_refused(report):
        st.error(f"{title} would refuse this pair.", icon=_LEVELS["refused"])
    else:
        st.success(f"{title} serves this pair.", icon=":material/check:")
    for finding in [*report.preflight, *([report.folder] if report.folder else [])]:
        box = st.error if finding.level == "refused" else st.warning
        box(
            f"**{ui.sentence(finding.what)}**  \n{ui.sentence(finding.reason)}  \nFix: {ui.sentence(finding.fix)}",
            icon=_LEVELS.get(finding.level, ":material/info:"),
        )
    for note in report.notes:
        st.caption(ui.sentence(note))
    st.caption(ui.text(f"Checked with {', '.join(check.started.options) or 'nothing set'}."))
