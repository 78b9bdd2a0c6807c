"""Entry script for AppTest: one page in the router's frame. AppTest cannot choose a page of st.navigation by URL."""

import runpy

import streamlit as st

from engine.errors import DraftbenchError
from workbench.shared import theme, ui
from workbench.shared.pages import FOLDER, PAGES, page_of

name = st.query_params["_page"]
theme.inject()
st.navigation([page_of(page) for page in PAGES], position="hidden")
ui.sidebar()
try:
    runpy.run_path(str(FOLDER / f"{name}.py"))
    ui.keep_view()
except DraftbenchError as error:  # in the application this is `on_script_error`, which AppTest does not have
    ui.show_error(error)
