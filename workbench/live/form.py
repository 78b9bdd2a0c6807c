"""The form of the live view: the conversation, who decodes it, and how; and what its buttons do."""

from __future__ import annotations

import contextlib
import os
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine

import gradio as gr

from engine.chat.prompt import Prompt
from engine.config.defaults import DECODE
from engine.errors import DraftbenchError
from engine.paths import home
from workbench.live import address, answer_html, visitors
from workbench.live.conversation import TOOLS_EXAMPLE, brings, parts, read_tools, sample, samples
from workbench.live.decode import LIMITS
from workbench.live.drafts import Choice, Offer, has_draft, offered
from workbench.live.turns_editor import EMPTY, turns_editor

_QUEUE_LOOK_S = 0.05  # between two looks for visitors who wait
VISITORS = 8  # streaming at the same time; more wait in Gradio's queue
_NO_SECOND = ("none", "")
_BESIDE = "System text and tools"
_PROPOSALS = [("drawn from q, as Transformers does", "sampled"), ("the likeliest token, as most servers do", "argmax")]
# The view's address goes into the address bar, that of the page around the frame too: a reload opens the same view.
_KEEP = """(url) => {
  if (!url) return;
  for (const place of new Set([window, window.frameElement ? window.parent : window])) {
    const here = new URL(place.location.href);
    const tone = here.searchParams.get("__theme");
    here.search = url.split("?")[1];
    if (tone) here.searchParams.set("__theme", tone);
    place.history.replaceState(place.history.state, "", here);
  }
}"""
CSS = """
#buttons{gap:.5rem;flex-wrap:wrap;align-items:center;justify-content:flex-start}
#buttons>*{flex:0 0 auto!important;width:auto!important;min-width:0!important;margin:0!important}
#settings input{text-overflow:ellipsis}
#settings .secondary-wrap input{padding-right:1.4rem}
#tools textarea{font-family:var(--font-mono);font-size:.86rem}
#view{padding:0!important}
"""


def build(*, replay: bool = True) -> gr.Blocks:
    """The page: the conversation and the answer, and beside them who decodes and how. `replay`: see `visitors.save`."""

    def save(request: gr.Request) -> tuple[str, list[str]]:
        return visitors.save(request, replay)

    with gr.Blocks(title="Draftbench live", analytics_enabled=False, fill_width=True) as demo:
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                turns = turns_editor()
                ready = gr.Dropdown(_sample_choices(), label="Sample prompts", value=None)
                with gr.Accordion(_BESIDE, open=False) as beside:
                    system = gr.Textbox(
                        "",
                        label="System text",
                        lines=1,
                        max_lines=8,
                        info="Empty: what the target's template writes itself",
                    )
                    tools = gr.Textbox(
                        "",
                        label="Tools",
                        lines=1,
                        max_lines=14,
                        info="A JSON list of function schemas",
                        placeholder=TOOLS_EXAMPLE,
                        elem_id="tools",
                    )
                with gr.Row(elem_id="buttons"):
                    # what reads the form waits until `prefill` has filled it: before, it holds an empty question
                    start = gr.Button("Decode", variant="primary", interactive=False)
                    halt = gr.Button("Stop", variant="stop")
                    draft_on = gr.Checkbox(
                        True, label="Draft on", elem_id="draft_on", container=False, interactive=False
                    )
                    go_on = gr.Button("Continue")
                    look = gr.Button("Show what is sent", interactive=False)
                    keep = gr.Button("Save trace")
                looked_at = gr.HTML(elem_id="sent")  # above the answer: a long one would hide it
                view = gr.HTML(answer_html.welcome(True), elem_id="view")
                note = gr.HTML()
            with gr.Column(scale=1, min_width=270, elem_id="settings"):
                target = gr.Dropdown([], label="Target", info="Its drafts are offered below")
                run = gr.Dropdown([], label="Draft", info="A finished run", allow_custom_value=True)
                run2 = gr.Dropdown([], label="Second draft", info="On the same seed", allow_custom_value=True)
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
                    True, label="Measure the difference", info="Afterwards, decodes as many tokens without a draft"
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
                    proposals = gr.Dropdown(
                        _PROPOSALS,
                        value=DECODE.proposals,
                        label="Proposals",
                        info="At temperature 0 both are the same",
                    )
                    top_p = gr.Slider(*LIMITS["top_p"], value=DECODE.top_p, step=0.01, label="Top-p", info="1 is off")
                    top_k = gr.Slider(*LIMITS["top_k"], value=DECODE.top_k, step=1, label="Top-k", info="0 is off")
                    seed = gr.Number(
                        value=DECODE.seed, precision=0, minimum=0, label="Seed", info="For all random draws"
                    )
                    most = gr.Slider(
                        *LIMITS["max_new_tokens"], value=DECODE.max_new_tokens, step=1, label="Max new tokens"
                    )
        data, ids, seen = gr.JSON(visible=False), gr.JSON(visible=False), gr.JSON(visible=False)
        kept = gr.Textbox(visible="hidden")
        talk = [system, turns, tools]
        numbers = [gamma, temperature, top_p, top_k, seed, most]
        quick: dict[str, Any] = {"show_progress": "hidden", "queue": False}
        demo.load(
            prefill,
            None,
            [*talk, beside, target, run, run2, *numbers, proposals, plain, draft_on, view],
            show_progress="hidden",
            api_name=False,
        ).then(lambda: [gr.update(interactive=True)] * 3, None, [start, draft_on, look], api_name=False, **quick)
        ready.input(take_sample, ready, [*talk, beside], api_name=False, **quick)
        target.input(take_target, target, [run, run2], api_name=False, **quick)
        run.input(take_draft, [target, run], run2, api_name=False, **quick)
        everything = [*talk, run, run2, gamma, temperature, top_p, top_k, proposals, seed, most, plain, draft_on]
        gr.on(
            [start.click, draft_on.input],
            visitors.show_decoding,
            everything,
            [view, data],
            api_name="decode",
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=VISITORS,
        )
        gr.on([start.click, draft_on.input], visitors.kept_address, everything, kept, api_name=False, **quick).then(
            None, kept, None, js=_KEEP, api_name=False
        )
        gr.on([system.input, tools.input], heading, [system, tools], beside, api_name=False, **quick)
        # What was shown is of what was there: it goes with the first change, without a round trip.
        gr.on(
            [start.click, draft_on.input, ready.input, *(one.change for one in (*talk, target, run, most))],
            None,
            None,
            looked_at,
            js="() => ''",
            api_name=False,
            **quick,
        )
        halt.click(visitors.stop, None, None, api_name="stop", **quick)
        go_on.click(visitors.continued, None, [note, turns], api_name="continue", **quick)
        look.click(visitors.show_sent, [*talk, run, most], [looked_at, seen], api_name="sent", show_progress="minimal")
        keep.click(save, None, [note, ids], api_name="save", **quick)
        demo.unload(visitors.leave)
    demo.queue(default_concurrency_limit=VISITORS)
    # Gradio looks into its queue 1,000 times a second, which costs 6% of a core where nobody is there.
    demo._queue.sleep_when_free = demo._queue.progress_update_sleep_when_free = _QUEUE_LOOK_S
    return demo


def prefill(request: gr.Request) -> list[Any]:
    """Fill the form from the page's URL. What the URL leaves out keeps its default; unknown values are reported."""
    params = {key: value for key, value in dict(request.query_params or {}).items() if value}
    named = [params[name] for name in ("run", "run2") if name in params]
    missing = [name for name in named if not _decodable(name)]
    offer = offered(home(), named=named)
    asked, asked_second = ("" if params.get(name, "") in missing else params.get(name, "") for name in ("run", "run2"))
    first = asked or (offer.drafts[0].run_id if offer.drafts else None)
    chosen = offer.of(first or "")
    key = chosen.target_key if chosen else None
    wanted = address.read(params, chosen.domain if chosen else "")
    wrong = [f"there is no draft {name!r}" for name in missing] + wanted.wrong
    second = offer.of(asked_second)
    if chosen and second and second.target_key != key:
        wrong.append(f"{second.name} was trained for another target than {chosen.name}")
        asked_second = ""
    if chosen and chosen.gamma:
        wanted.numbers.setdefault("gamma", chosen.gamma)
    switches = [
        gr.update(value=wanted.switches[name]) if name in wanted.switches else gr.skip() for name in ("plain", "draft")
    ]
    return [
        *_shown(wanted.conversation),
        gr.update(choices=offer.targets(), value=key),
        gr.update(choices=_labels(offer.for_target(key)), value=first, info=_from(offer)),
        gr.update(choices=_seconds(offer, key, first), value=asked_second),
        *(gr.update(value=wanted.numbers[n]) if n in wanted.numbers else gr.skip() for n in address.NUMBERS),
        gr.update(value=wanted.proposals) if wanted.proposals else gr.skip(),
        *switches,
        answer_html.not_here(wrong) if wrong else answer_html.welcome(bool(offer.drafts)),
    ]


def take_sample(prompt_id: str | None) -> list[Any]:
    """Fill in a sample: its system text, turns and tools."""
    prompt = sample(prompt_id or "")
    return [gr.skip()] * 4 if prompt is None else _shown(prompt)


def heading(system: str | None, tools: str | None) -> Any:
    """The label above system text and tools as they are typed: what is in them."""
    try:
        count, wrong = len(read_tools(tools)), False
    except DraftbenchError:
        count, wrong = 0, True
    inside = ["a system text"] if system and system.strip() else []
    inside += [f"{count} tool{'s' if count > 1 else ''}"] if count else []
    inside += ["tools that cannot be read"] if wrong else []
    return gr.update(label=f"{_BESIDE}: {' and '.join(inside)}" if inside else _BESIDE)


def _shown(conversation: Prompt | None) -> list[Any]:
    """Values of system text, turns and tools, and the label above them, which says what is in them."""
    if conversation is None:
        return ["", EMPTY, "", gr.skip()]
    system, turns, tools = parts(conversation)
    return [system, turns, tools, heading(system, tools)]


def take_target(key: str | None) -> list[Any]:
    """The drafts that fit the target, the best one chosen."""
    offer = offered(home())
    fitting = offer.for_target(key)
    first = fitting[0].run_id if fitting else None
    return [
        gr.update(choices=_labels(fitting), value=first),
        gr.update(choices=_seconds(offer, key, first), value=""),
    ]


def take_draft(key: str | None, run_id: str | None) -> Any:
    """The other drafts of the target."""
    return gr.update(choices=_seconds(offered(home()), key, run_id), value="")


def _labels(choices: list[Choice]) -> list[tuple[str, str]]:
    return [(choice.label, choice.run_id) for choice in choices]


def _seconds(offer: Offer, key: str | None, first: str | None) -> list[tuple[str, str]]:
    return [_NO_SECOND, *_labels([choice for choice in offer.for_target(key) if choice.run_id != first])]


def _from(offer: Offer) -> str:
    if not offer.without_weights:
        return "A finished run, the best one first"
    return f"Best first. {offer.without_weights} finished runs have no weights here and are not offered"


def _decodable(run_id: str) -> bool:
    """Whether the run has a draft. An archived one is not listed, but the URL may name it."""
    with contextlib.suppress(DraftbenchError):
        return has_draft(home(), run_id)
    return False


def _sample_choices() -> list[tuple[str, str]]:
    return [
        (f"{domain}: {p.text[:90]}{f' (with {brings(p)})' if brings(p) else ''}", p.id)
        for domain, prompts in samples().items()
        for p in prompts
    ]
