"""The Serve section of a run's page: one server, and what there is to know and do for it.

A list of parts, each a function of the run and the server: another part is a function and a line in PARTS.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from engine.catalogue import EXPORTERS, SERVERS
from engine.errors import DraftbenchError
from engine.runs.folder import RunFolder
from workbench.run import export_job, preflight_job
from workbench.run.expected import expected
from workbench.run.export import export_outcome
from workbench.run.served import served
from workbench.shared import actions, queries, ui, watch

_TARGETS = {
    "as the server wants it": "",
    "not with it": "none",
    "whole, its adapter merged": "merged",
    "its adapter apart": "apart",
}
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
    """Draw what the server would say to the pair, and the command that starts it."""
    check = preflight_job.read(run, server)
    if check.state == "running":
        _checking(run, server)
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
        icon=":material/rule:",
    )


@st.fragment
def _checking(run: RunFolder, server: str) -> None:
    seen = watch.marks(queries.home(), [run.id])
    if preflight_job.read(run, server).state != "running":
        st.rerun()
    st.info("Reading settings and tokenizers of both models.", icon=":material/progress_activity:")
    watch.watch("watch-preflight", [run.id], seen, ("clock",), 2.0)


def _findings(server: str, report: preflight_job.Report) -> None:
    refused = [finding for finding in report.preflight if finding.level == "refused"]
    title = SERVERS[server].title
    if refused:
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
    if not refused and report.command:
        st.code(report.command, language="sh", wrap_lines=True)


def export_for(run: RunFolder, server: str) -> None:
    """Draw the form that writes an export for the server, or the progress and outcome of the last export."""
    if export_outcome(run):
        return
    card = SERVERS[server]
    key = {name: f"serve-{name}-{server}-{run.id}" for name in ("out", "target", "gguf", "overwrite", "check")}
    with st.form(f"serve-{server}-{run.id}"):
        st.text_input("Folder", str(export_job.default_folder(queries.home(), run, server)), key=key["out"])
        left, right = st.columns(2)
        left.selectbox("Target", list(_TARGETS), key=key["target"])
        precisions = EXPORTERS[card.weights].precisions
        if precisions:
            right.selectbox("Precision", precisions, key=key["gguf"])
        left.toggle("Replace an earlier export", key=key["overwrite"])
        right.toggle("Measure the export", True, key=key["check"])
        actions.submit(
            f"Export for {card.title}",
            lambda: _start(run, server, key),
            key=f"serve-go-{server}-{run.id}",
            icon=":material/upload:",
        )


def _start(run: RunFolder, server: str, key: dict[str, str]) -> str:
    given = {name: st.session_state.get(widget) for name, widget in key.items()}
    target = _TARGETS[str(given["target"])]
    more = ["--for", server]
    more += ["--target", target] if target else []
    more += ["--gguf", str(given["gguf"])] if given["gguf"] else []
    out, overwrite, check = str(given["out"]), bool(given["overwrite"]), bool(given["check"])
    return export_job.start(queries.home(), run, out, overwrite=overwrite, check=check, more=more)


Part = Callable[[RunFolder, str], None]
PARTS: tuple[tuple[str, Part], ...] = (
    ("What to expect of it", expected),
    ("Will it load the pair?", pair),
    ("Export", export_for),
    ("What servers reported", lambda run, server: served(run)),
)
"""The parts of the section from top to bottom."""
