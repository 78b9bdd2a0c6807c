"""The live view: a Gradio app that streams tokens with their fates, mounted in the workbench or served alone.

    python -m workbench.live --port 7860

Each visitor's answer, stop flag and trace belong to the visitor's own session; the models are
shared (`pairs`). Loading the page does not touch a model.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from engine.chat.prompt import Prompt
from engine.config.defaults import DECODE
from engine.errors import DraftbenchError
from engine.paths import home
from engine.runs.faults import explain
from engine.traces.saved import save_trace
from workbench.live import answer_html
from workbench.live.decode import LIMITS, Ask, Live, brings, choices, decode, has_draft, sample, samples
from workbench.server import allowed_routes
from workbench.server.guard import Guard, named_or_exit
from workbench.shared import theme

PATH = "/live"
_QUEUE_LOOK_S = 0.05  # between two looks for visitors who wait
VISITORS = 8  # streaming at the same time; more wait in Gradio's queue
_log = logging.getLogger("draftbench")
_FONT = ["Source Sans 3", "Source Sans Pro", "system-ui", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_SEEDS = (0, 2**63 - 1)
_NUMBERS = {"gamma": int, "temperature": float, "top_p": float, "top_k": int, "seed": int, "max_new_tokens": int}


@dataclass
class Session:
    """One visitor's answer and the flag that stops it."""

    stop: threading.Event = field(default_factory=threading.Event)
    live: Live | None = None


class Sessions:
    """The visitors' sessions by Gradio's session hash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def begin(self, key: str) -> Session:
        """Stop the visitor's last session and replace it by a new one."""
        with self._lock:
            if key in self._sessions:
                self._sessions[key].stop.set()
            self._sessions[key] = Session()
            return self._sessions[key]

    def of(self, key: str) -> Session | None:
        with self._lock:
            return self._sessions.get(key)

    def end(self, key: str) -> None:
        """Stop and remove the session of a visitor who has left."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session:
            session.stop.set()


SESSIONS = Sessions()


def _decode(
    prompt: str,
    run: str | None,
    run2: str | None,
    gamma: float,
    temperature: float,
    top_p: float,
    top_k: float,
    seed: float,
    max_new_tokens: float,
    compare_plain: bool,
    context: str | None,
    request: gr.Request,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Decode for this visitor; yield the page's HTML and the same as data after every round."""
    session = SESSIONS.begin(str(request.session_hash))
    runs = tuple(dict.fromkeys(name.strip() for name in (run, run2) if name and name.strip()))
    try:
        if None in (gamma, temperature, top_p, top_k, seed, max_new_tokens):
            raise DraftbenchError("a setting is empty", "all of them affect the result", "enter a number")
        ask = Ask(
            prompt or "",
            runs,
            int(gamma),
            float(temperature),
            float(top_p),
            int(top_k),
            int(seed),
            int(max_new_tokens),
            bool(compare_plain),
            context or "",
        )
        known = {choice.run_id: choice for choice in choices(home())}
        for live in decode(home(), ask, session.stop):
            session.live = live
            yield answer_html.page(live, known), answer_html.as_data(live)
    except Exception as error:
        explained = error if isinstance(error, DraftbenchError) else explain(error)
        if explained is None:
            _log.exception("the live view failed")
            explained = DraftbenchError(
                f"{type(error).__name__}: {error}", "this is a bug in Draftbench", "see the server's log for details"
            )
        yield answer_html.error(explained), {"stage": "error", "error": explained.as_dict()}


def _stop(request: gr.Request) -> None:
    """Stop this visitor's decoding before its next round."""
    session = SESSIONS.of(str(request.session_hash))
    if session:
        session.stop.set()


def _save(request: gr.Request, replay: bool = True) -> tuple[str, list[str]]:
    """Save this visitor's answers as traces; return a line of links, and the ids. `replay`: is there a Replay page?"""
    session = SESSIONS.of(str(request.session_hash))
    sides = [side for side in session.live.sides if side.rounds] if session and session.live else []
    if session is None or session.live is None or not sides:
        return answer_html.error(
            DraftbenchError("nothing to save", "nothing has been decoded yet", "press Decode first")
        ), []
    try:
        ids = [save_trace(home(), session.live.trace(side)) for side in sides]
    except DraftbenchError as error:
        return answer_html.error(error), []
    return answer_html.saved(ids) if replay else answer_html.saved_as([str(home().trace(one)) for one in ids]), ids


def _leave(request: gr.Request) -> None:
    SESSIONS.end(str(request.session_hash))


def _prefill(request: gr.Request) -> list[Any]:
    """Fill the form from the page's URL. What the URL leaves out keeps its default; unknown values are reported."""
    params = {key: value for key, value in dict(request.query_params or {}).items() if value}
    drafts = choices(home())
    known = [(choice.label, choice.run_id) for choice in drafts]
    first = params.get("run") or (drafts[0].run_id if drafts else None)
    domain = next((choice.domain for choice in drafts if choice.run_id == first), "")
    prompt, context = _prompt_from_url(params, domain)
    measured_with = next((choice.gamma for choice in drafts if choice.run_id == first), None)
    wrong = [
        f"there is no draft {params[name]!r}"
        for name in ("run", "run2")
        if name in params and not _decodable(params[name])
    ]
    wrong += [f"there is no sample prompt {context!r}"] if context and sample(context) is None else []
    numbers = {name: _number_from_url(name, params[name]) for name in _NUMBERS if name in params}
    wrong += [f"{name} is {params[name]!r}, not {_between(name)}" for name, value in numbers.items() if value is None]
    if measured_with:
        numbers.setdefault("gamma", measured_with)
    plain = params.get("plain")
    wrong += [f"plain is {plain!r}, not 0 or 1"] if plain not in (None, "0", "1") else []
    return [
        prompt,
        gr.update(choices=known, value=first),
        gr.update(choices=[("none", ""), *known], value=params.get("run2") or ""),
        *(gr.skip() if numbers.get(name) is None else gr.update(value=numbers[name]) for name in _NUMBERS),
        gr.update(value=plain == "1") if plain in ("0", "1") else gr.skip(),
        gr.update(value=context if sample(context) else ""),
        answer_html.not_here(wrong) if wrong else answer_html.welcome(bool(known)),
    ]


def _prompt_from_url(params: Mapping[str, str], domain: str) -> tuple[str, str]:
    """Prompt and context from the URL: its text, or a sample named by its id; without either a sample of the domain."""
    prompt = params.get("prompt")
    if prompt is None:
        return _with_context(_prompt_of(domain))
    named = sample(prompt)
    return _with_context(named) if named else (prompt, params.get("context", ""))


def _with_context(prompt: Prompt | None) -> tuple[str, str]:
    if prompt is None:
        return "", ""
    return prompt.text, prompt.id if brings(prompt) else ""


def _number_from_url(name: str, text: str) -> float | None:
    """A number from the URL; None if it is not a number, or outside the form's limits."""
    try:
        value = _NUMBERS[name](text)
    except ValueError:
        return None
    low, high = LIMITS.get(name, _SEEDS)
    return value if low <= value <= high else None


def _between(name: str) -> str:
    """'a number from 1 to 16': the form's limits in words."""
    low, high = LIMITS.get(name, _SEEDS)
    return f"a number from {low:g} to {high:g}" if name in LIMITS else "a whole number of at least 0"


def _prompt_of(domain: str) -> Prompt | None:
    """A sample prompt of the domain, or of any if it has none."""
    known = samples()
    return next((prompts[0] for prompts in (known.get(domain, ()), *known.values()) if prompts), None)


def _decodable(run_id: str) -> bool:
    """Whether the run has a draft. An archived one is not listed, but the URL may name it."""
    with contextlib.suppress(DraftbenchError):
        return has_draft(home(), run_id)
    return False


def _sample_choices() -> list[tuple[str, str]]:
    return [(f"{domain}: {p.text[:90]}", p.id) for domain, prompts in samples().items() for p in prompts]


def _context_choices() -> list[tuple[str, str]]:
    """Samples with tools or earlier messages, labelled by these."""
    every = [p for prompts in samples().values() for p in prompts]
    return [("none", ""), *((f"{brings(p)} of {p.id}: {p.text[:50]}", p.id) for p in every if brings(p))]


def _take_sample(prompt_id: str | None) -> list[Any]:
    """Fill in a sample: its question, and its tools and earlier messages, which stay while the question is edited."""
    prompt = sample(prompt_id or "")
    return [gr.skip(), gr.skip()] if prompt is None else list(_with_context(prompt))


def build(*, replay: bool = True) -> gr.Blocks:
    """The page: a form, buttons, and one HTML element that is updated every round."""

    def save(request: gr.Request) -> tuple[str, list[str]]:
        return _save(request, replay)

    with gr.Blocks(title="Draftbench live", analytics_enabled=False, fill_width=True) as demo:
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                prompt = gr.Textbox(label="Prompt", lines=3, max_lines=12, placeholder="Ask the target something")
                ready = gr.Dropdown(_sample_choices(), label="Sample prompts", value=None)
                context = gr.Dropdown(
                    _context_choices(),
                    label="Tools and earlier messages",
                    value="",
                    info="From a sample prompt; kept while you edit the prompt",
                )
            with gr.Column(scale=1, min_width=140):
                start = gr.Button("Decode", variant="primary")
                halt = gr.Button("Stop", variant="stop")
                keep = gr.Button("Save trace")
        note = gr.HTML()
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=270, elem_id="settings"):
                run = gr.Dropdown([], label="Draft", info="A finished run, with its target", allow_custom_value=True)
                run2 = gr.Dropdown(
                    [],
                    label="Second draft",
                    info="Compared on the same seed; needs the same target",
                    allow_custom_value=True,
                )
                gamma = gr.Slider(
                    *LIMITS["gamma"],
                    value=DECODE.num_draft_tokens,
                    step=1,
                    label="Gamma",
                    info="Tokens proposed per round",
                )
                temperature = gr.Slider(
                    *LIMITS["temperature"],
                    value=DECODE.temperature,
                    step=0.05,
                    label="Temperature",
                    info="0 is greedy",
                )
                plain = gr.Checkbox(
                    True, label="Measure the speed-up", info="Afterwards, decodes as many tokens without a draft"
                )
                # done by the style sheet (answer_html.CSS) without a round trip, also while decoding
                gr.Checkbox(
                    True,
                    label="Show rejected tokens",
                    info="Struck through where they were proposed",
                    elem_id="refused",
                    interactive=True,
                )
                with gr.Accordion("More settings", open=False):
                    top_p = gr.Slider(*LIMITS["top_p"], value=DECODE.top_p, step=0.01, label="Top-p", info="1 is off")
                    top_k = gr.Slider(*LIMITS["top_k"], value=DECODE.top_k, step=1, label="Top-k", info="0 is off")
                    seed = gr.Number(
                        value=DECODE.seed, precision=0, minimum=0, label="Seed", info="For all random draws"
                    )
                    most = gr.Slider(
                        *LIMITS["max_new_tokens"], value=DECODE.max_new_tokens, step=1, label="Max new tokens"
                    )
            with gr.Column(scale=3, min_width=320):
                view = gr.HTML(answer_html.welcome(True), elem_id="view")
        data, ids = gr.JSON(visible=False), gr.JSON(visible=False)
        numbers = [gamma, temperature, top_p, top_k, seed, most]
        demo.load(
            _prefill, None, [prompt, run, run2, *numbers, plain, context, view], show_progress="hidden", api_name=False
        )
        ready.input(_take_sample, ready, [prompt, context], show_progress="hidden", api_name=False, queue=False)
        start.click(
            _decode,
            [prompt, run, run2, *numbers, plain, context],
            [view, data],
            api_name="decode",
            show_progress="hidden",
            concurrency_limit=VISITORS,
        )
        halt.click(_stop, None, None, api_name="stop", show_progress="hidden", queue=False)
        keep.click(save, None, [note, ids], api_name="save", show_progress="hidden", queue=False)
        demo.unload(_leave)
    demo.queue(default_concurrency_limit=VISITORS)
    # Gradio looks into its queue 1,000 times a second, which costs 6% of a core where nobody is there.
    demo._queue.sleep_when_free = demo._queue.progress_update_sleep_when_free = _QUEUE_LOOK_S
    return demo


def mounted(*, replay: bool = True) -> FastAPI:
    """The live view as an application to mount under `PATH`; `replay`: it is served together with the workbench."""
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(),
        build(replay=replay),
        path="/",
        root_path=PATH,
        ssr_mode=False,
        show_error=False,
        footer_links=[],
        server_name="127.0.0.1",
        theme=_look(),
        css=theme.fate_css() + answer_html.CSS,
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
