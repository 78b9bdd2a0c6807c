"""The workbench as one ASGI application: the Streamlit pages, and the Gradio app of the live view under /live.

    streamlit run workbench/app.py

Both share one process, so the target that the live view decodes with is loaded once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# `streamlit run` puts this folder on the path, not the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import streamlit as st
from starlette.middleware import Middleware
from starlette.routing import Mount, Route

from engine.index.kept_reader import share_readers
from workbench.live import gradio_app
from workbench.server import allowed_routes, startup
from workbench.server.guard import Guard, named_or_exit
from workbench.server.page_head import SCRIPT, PageHead, script
from workbench.shared import ui, watch
from workbench.shared.pages import shortcuts

READERS_S = 0.3  # about what a page takes to draw
live_app = gradio_app.mounted()


@contextlib.asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
    """Prepare the home (samples, index, queue), and run the mounted app within this one's lifespan."""
    share_readers(READERS_S)
    startup.prepare(st.get_option("server.address"))
    async with live_app.router.lifespan_context(live_app):
        yield {}


app = st.App(
    str(Path(__file__).with_name("router.py")),
    routes=[Route(SCRIPT, script), Route(watch.PATH, watch.answer), Mount(gradio_app.PATH, app=live_app)],
    middleware=[
        Middleware(Guard, named=named_or_exit()),  # the first is the outermost
        Middleware(allowed_routes.AllowedRoutes, allows=allowed_routes.for_pages(gradio_app.PATH)),
        Middleware(PageHead, mounted=gradio_app.PATH, shortcuts=shortcuts()),
    ],
    lifespan=lifespan,
    on_script_error=ui.show_error,
)
