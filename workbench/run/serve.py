"""The Serve section of a run's page: one server, and what there is to know and do for it.

A list of parts, each a function of the run and the server: another part is a function and a line in PARTS.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.runs.folder import RunFolder
from workbench.run import export_job, preflight_job
from workbench.run.expected import expected, variants
from workbench.run.export import export
from workbench.run.served import served
from workbench.shared import actions, queries, ui, watch

_LEVELS = {"refused": ":material/block:", "warning": ":material/warning:"}


def serve(run: RunFolder) -> None:
    """Draw the choice of a server, and the parts for it."""
    offered = {card.title: name for name, card in SERVERS.items() if card.exported}
    # chosen by its title, as the address holds what the control shows
    title = st.segmented_control(
        "Server", list(offered), default=SERVERS["vllm"].title, key="server", required=True, bind="query-params"
    )
    server = offered.get(title or "", "vllm")
    card = SERVERS[server]
    st.caption(f"{card.text} [Documentation]({card.source})")
    for heading, part in PARTS:
        st.subheader(heading)
        part(run, server)


def pair(run: RunFolder, server: str) -> None:
    """Draw what the server would say to the pair."""
    check = preflight_job.read(run, server)
    if check.state == "running":
        _checking(run, server)
        actions.outcome("preflight")
        return
    if check.state == "done":
        _findings(server, check.report)
    elif check.state == "failed":
        ui.error_box(
            DraftbenchError(check.error.what, check.error.why, check.error.fix)
            if check.error.what
            else DraftbenchError("the check failed", check.output, "fix the error, then check again")
        )
    else:
        st.write("Compares target and draft by the server's own rules, before any weights are loaded or copied.")
    actions.button(
        "Check the pair" if check.state == "none" else "Check again",
        lambda: preflight_job.start(queries.home(), run, server),
        key=f"preflight-{server}-{run.id}",
        place="preflight",
        icon=":material/rule:",
    )
    actions.outcome("preflight")


@st.fragment
def _checking(run: RunFolder, server: str) -> None:
    seen = watch.marks(queries.home(), [run.id])
    if preflight_job.read(run, server).state != "running":
        st.rerun()
    st.info("Reading settings and tokenizers of both models.", icon=":material/progress_activity:")
    watch.watch("watch-preflight", [run.id], seen, ("clock",), 2.0)


def _findings(server: str, report: preflight_job.Report) -> None:
    title = SERVERS[server].title
    if _refused(report):
        st.error(f"{title} would refuse this pair.", icon=_LEVELS["refused"])
    else:
        st.success(f"{title} serves this pair.", icon=":material/check:")
    for finding in report.preflight:
        box = st.error if finding.level == "refused" else st.warning
        box(
            f"**{ui.text(finding.what)}**  \n{ui.text(finding.reason)}  \nFix: {ui.text(finding.fix)}",
            icon=_LEVELS.get(finding.level, ":material/info:"),
        )
    for note in report.notes:
        st.caption(ui.text(note))


def _refused(report: preflight_job.Report) -> bool:
    return any(finding.level == "refused" for finding in report.preflight)


def start(run: RunFolder, server: str) -> None:
    """Draw the command that starts the server: that of the export for it, else of the check of the pair."""
    last, check = export_job.read(run), preflight_job.read(run, server)
    out = str(export_job.default_folder(queries.home(), run, server))
    command = check.report.command if check.state == "done" and not _refused(check.report) else ""
    if last.state == "done" and last.started.server == server and last.report.served.command:
        command = last.report.served.command
        out = ""
    if command:
        st.code(command, language="sh", wrap_lines=True)
        if out:
            st.caption(ui.text(f"Of an export to {out}, which is still to be written."))
    else:
        st.caption("The command stands here once the pair is checked or exported.")
    variants(run, server)


PARTS: tuple[tuple[str, Callable[[RunFolder, str], None]], ...] = (
    ("What to expect of it", expected),
    ("Will it load the pair?", pair),
    ("Export", export),
    ("Start it", start),
    ("What servers reported", lambda run, server: served(run)),
)
"""The parts of the section from top to bottom."""
