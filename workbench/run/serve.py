"""The Serve section of a run's page: one server, and what there is to know and do for it.

A list of parts, each a function of the run and the server: another part is a function and a line in PARTS.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from engine.catalogue import SERVERS
from engine.runs.folder import RunFolder
from workbench.run import export_job, preflight_job
from workbench.run.expected import expected, variants
from workbench.run.export import export
from workbench.run.pair import is_outdated, is_refused
from workbench.run.served import served
from workbench.shared import ui


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


def start(run: RunFolder, server: str) -> None:
    """Draw the command that starts the server: of the last export for it, or of a check of the pair since."""
    last, check = export_job.read(run), preflight_job.read(run, server)
    command, out, gamma = "", "", None
    if last.state == "done" and last.started.server == server:
        command, gamma = last.report.served.command, last.report.served.gamma
    taken = check.state == "done" and not is_refused(check.report)
    if taken and not (command and is_outdated(run, server, check)):
        command, out, gamma = check.report.command, check.started.out, check.report.gamma
    if command:
        st.code(command, language="sh", wrap_lines=True)
        if out:
            st.caption(ui.text(f"Of an export to {out} as it was checked, which is still to be written."))
    else:
        st.caption("The command stands here once a pair that the server takes is checked or exported.")
    variants(run, server, gamma)


PARTS: tuple[tuple[str, Callable[[RunFolder, str], None]], ...] = (
    ("What to expect of it", expected),
    ("Export", export),
    ("Start it", start),
    ("What servers reported", lambda run, server: served(run)),
)
"""The parts of the section from top to bottom."""
