"""The frame around every page: navigation, shared styles, sidebar.

`app.py` runs this script for each visitor. Started directly it would be a server without the guard, so it refuses.
"""

from __future__ import annotations

import contextlib

import streamlit as st

from engine.errors import DraftbenchError
from workbench.server.guard import Guard
from workbench.shared import pages, theme, ui
from workbench.shared.pages import PAGES, page_of

st.set_page_config(page_title="Draftbench", page_icon=str(ui.ICON), layout="wide")
if not Guard.installed:
    ui.error_box(
        DraftbenchError(
            "this server was started without its guard",
            "any web page open in your browser could start processes through it",
            "stop it, and start it with `streamlit run workbench/app.py`",
        )
    )
    st.stop()
theme.inject()

sections: dict[str, list[st.Page]] = {}
for name, entry in PAGES.items():
    sections.setdefault(entry.section, []).append(page_of(name))
page = st.navigation(sections, position="sidebar", expanded=True)
with contextlib.suppress(DraftbenchError):  # a page that needs the index shows the error itself
    ui.sidebar()
pages.leave_behind(page.url_path or next(name for name, entry in PAGES.items() if entry.default))
page.run()
ui.keep_view()
