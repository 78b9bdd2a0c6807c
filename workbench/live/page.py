"""The Live page: the Gradio app in a frame, with the parameters of this page's URL."""

from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from workbench.live.drafts import has_draft
from workbench.shared import queries, theme, ui
from workbench.shared.pages import PAGES

# Not `st.iframe`: it loads its frame again whenever its address changes, which the frame does itself (`frame.js`).
_FRAME = st.components.v2.component(
    "draftbench_live",
    html='<a class="alone" target="_blank">Open in a new tab</a>'
    '<iframe class="live" title="Live decoding: form, answer with the fate of each token, counters"></iframe>',
    css="iframe.live { display: block; width: 100%; height: 700px; border: 0; margin-top: 1rem }"
    "a.alone { font-size: .875rem; color: var(--st-link-color) }",
    js=Path(__file__).with_name("frame.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def render() -> None:
    """Draw the page."""
    ui.heading("live")
    if not any(has_draft(queries.home(), run_id) for run_id in queries.runs().run_id):
        ui.empty(
            "No run has a draft yet. Train one to watch how many of its tokens the target accepts.",
            "Start a run",
            "launch",
        )
        return
    known = queries.runs()
    ui.tab_title(*known.label[known.run_id == st.query_params.get("run")].head(1), "Live")
    params = [(key, value) for key in PAGES["live"].params if (value := st.query_params.get(key))]
    # Last on the page: it grows to what is in it (`gradio_app`), so that the page has one scrollbar.
    data = {"path": "/live/", "search": urlencode(params), "theme": theme.mode()}
    _FRAME(key="live-frame", data=data, height="content")
