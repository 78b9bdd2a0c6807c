"""The frame around every page: navigation, shared styles, sidebar."""

from __future__ import annotations

import contextlib

import streamlit as st

from engine.errors import DraftbenchError
from workbench.shared import theme, ui
from workbench.shared.view_state import PAGES, page_of

st.set_page_config(page_title="Draftbench", page_icon=str(ui.ICON), layout="wide")
theme.inject()

sections: dict[str, list[st.Page]] = {}
for name, entry in PAGES.items():
    sections.setdefault(entry.section, []).append(page_of(name))
chosen = st.navigation(sections, position="sidebar", expanded=True)
with contextlib.suppress(DraftbenchError):  # a page that needs the index says itself what is wrong with it
    ui.sidebar()
chosen.run()
ui.keep_view()
