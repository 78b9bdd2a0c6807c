"""The live view as an application: mounted in the workbench, or served alone.

    python -m workbench.live --port 7860

Each visitor's answer, stop flag and trace belong to the visitor's own session (`visitors`); the models are shared
(`pairs`). Loading the page does not touch a model.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import AsyncIterator, Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from engine.paths import home
from workbench.live import answer_html, form, turns_editor
from workbench.server import allowed_routes
from workbench.server.guard import Guard, named_or_exit
from workbench.shared import theme

PATH = "/live"
_FONT = ["Source Sans 3", "Source Sans Pro", "system-ui", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

# In a frame of our own page the view is as tall as what is in it, so that the page has one scrollbar. Gradio makes a
# page at least as tall as its window, which in such a frame would never shrink again.
_FIT = """<script>
if (window.frameElement) {
  document.documentElement.classList.add("framed");
  const fit = () => {
    const height = document.body.scrollHeight + "px";
    if (window.frameElement.style.height !== height) window.frameElement.style.height = height;
  };
  new ResizeObserver(fit).observe(document.body);
  fit();
}
</script>"""
_FRAMED_CSS = """
html.framed,html.framed body,html.framed gradio-app,html.framed .gradio-container,html.framed .main,html.framed .wrap{
min-height:0!important;height:auto!important}
html.framed body{overflow:hidden}
html.framed .main.app{padding:0 0 .5rem!important}
.dark input[type=range]{--neutral-200:#4d5e6c}
@media(max-width:680px){.main.app{padding:.5rem!important}}
"""


def mounted(*, replay: bool = True) -> FastAPI:
    """The live view as an application to mount under `PATH`; `replay`: it is served together with the workbench."""
    # Before the server has threads: the package replaces itself while it is imported, and a second thread that asks for
    # a part of it meanwhile, as the first Decode may, is refused.
    importlib.import_module("transformers")
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(),
        form.build(replay=replay),
        path="/",
        root_path=PATH,
        ssr_mode=False,
        show_error=False,
        footer_links=[],
        server_name="127.0.0.1",
        theme=_look(),
        css=theme.fate_css() + theme.FOCUS_CSS + answer_html.CSS + turns_editor.CSS + form.CSS + _FRAMED_CSS,
        head=_FIT,
    )
    app.add_middleware(allowed_routes.AllowedRoutes, allows=allowed_routes.for_live)
    return app


def _look() -> gr.themes.Base:
    """System fonts, since Gradio's own are fetched from the network, and the colours of the other pages."""
    light, dark = theme.TONES["light"], theme.TONES["dark"]
    accent = {"slider_color": theme.PALETTE[0], "button_primary_background_fill": theme.PALETTE[0]}
    return gr.themes.Base(font=_FONT, font_mono=_MONO, neutral_hue="slate").set(
        **accent,
        button_primary_background_fill_hover="#005f94",
        button_primary_background_fill_dark=theme.PALETTE[0],
        button_primary_background_fill_hover_dark="#005f94",
        checkbox_background_color_selected=theme.PALETTE[0],
        checkbox_background_color_selected_dark=theme.PALETTE[0],
        link_text_color="#005f94",
        link_text_color_dark="#7cc6f0",
        body_background_fill=light.background,
        body_background_fill_dark=dark.background,
        body_text_color=light.text,
        body_text_color_dark=dark.text,
        block_background_fill_dark="#1a232c",
        background_fill_primary_dark="#1a232c",
        background_fill_secondary_dark="#25313c",
        input_background_fill="#f3f6f8",
        input_background_fill_dark="#25313c",
        border_color_primary="#d5dde3",
        border_color_primary_dark="#33414d",
        button_secondary_background_fill_dark="#33414d",
        block_label_text_color=light.text,
        block_title_text_color=light.text,
        block_title_text_color_dark=dark.text,
        body_text_color_subdued=light.faint,
        body_text_color_subdued_dark=dark.faint,
        block_info_text_color=light.faint,
        block_info_text_color_dark=dark.faint,
    )


def alone(named: Sequence[str] = ()) -> FastAPI:
    """The live view without the rest of the workbench, at the same path. `named`: see `Guard`."""
    inner = mounted(replay=False)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan, openapi_url=None)  # which also disables the documentation pages
    outer.add_middleware(Guard, named=named)
    outer.add_api_route("/", lambda: RedirectResponse(f"{PATH}/"))
    outer.mount(PATH, inner)
    return outer


def main(arguments: list[str] | None = None) -> None:
    """Serve the live view alone until it is interrupted."""
    import uvicorn

    from engine.runs.samples import lay_out_samples
    from workbench.server import startup

    parser = argparse.ArgumentParser(
        prog="draftbench live", description="Serve the live view without the rest of the workbench."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args(arguments)
    if message := startup.warning(given.host):
        print(f"warning: {message}", file=sys.stderr)
    app = alone(named_or_exit())
    lay_out_samples(home())
    shown = "localhost" if given.host in ("0.0.0.0", "::") else f"[{given.host}]" if ":" in given.host else given.host
    print(f"http://{shown}:{given.port}{PATH}/", flush=True)
    # an open page holds a connection that never ends: Ctrl-C must not wait for it
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning", timeout_graceful_shutdown=1)
