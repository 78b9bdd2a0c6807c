"""The frame around every page: navigation, shared styles, and the box that an error becomes."""

from __future__ import annotations

import streamlit as st

from engine.errors import DraftbenchError
from workbench import theme, ui
from workbench.view_state import PAGES, page_of

st.set_page_config(page_title="Draftbench", page_icon=str(ui.ICON), layout="wide")
theme.inject()

sections: dict[str, list] = {}
for name, entry in PAGES.items():
    sections.setdefault(entry.section, []).append(page_of(name))
chosen = st.navigation(sections, position="sidebar", expanded=True)
ui.sidebar()
try:
    chosen.run()
except DraftbenchError as error:
    ui.error_box(error)
