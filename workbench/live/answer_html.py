"""The live view's output as HTML: answers with fates, rounds, counters, errors. All text is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.decode.events import EMITTED
from engine.errors import DraftbenchError
from workbench.live.decode import Ask, Choice, Live, Side
from workbench.shared import tokens
from workbench.shared.pages import link

CSS = """
.live{font-size:15px}
.live h3{margin:.1rem 0 .1rem;font-size:1.05rem;overflow-wrap:anywhere}
.live .about{opacity:.75;font-size:.86rem;margin:0 0 .6rem;overflow-wrap:anywhere}
.live .stage{opacity:.8;margin-bottom:.8rem}
.live .sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));gap:1.4rem}
.live .figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.6rem,1fr));gap:.5rem 1rem;
margin:.2rem 0 .7rem}
.live .figures b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums;line-height:1.25}
.live .figures span{display:block;font-size:.86rem}
.live .figures small{display:block;opacity:.7;font-size:.78rem}
.live .tokens{margin:.7rem 0 1.2rem}
.live .legend{margin-top:1.2rem;border-top:1px solid rgba(128,128,128,.3);padding-top:.8rem}
.live .plain{margin-top:1rem;border-top:1px solid rgba(128,128,128,.3);padding-top:.8rem}
.live .box{border-left:4px solid #D55E00;background:#D55E0018;padding:.7rem 1rem;border-radius:.3rem;
overflow-wrap:anywhere}
.live .box p{margin:.2rem 0}
body:has(#refused input:not(:checked)) .tokens .tok:is(.fate-rejected,.fate-discarded){display:none}
footer{display:none!important}
@media(max-width:680px){#settings{order:2}}
"""

_LONGEST_IN_ADDRESS = 1500  # characters of a prompt
_STAGES = {
    "loading": "Loading the models, once for all visitors.",
    "decoding": "Decoding. Press Stop to end after the current round.",
    "plain": "Decoding as many tokens without a draft, to measure the speed-up.",
    "stopped": "Stopped.",
    "done": "Done.",
}


def page(live: Live, known: Mapping[str, Choice]) -> str:
    """The answer so far. `known`: run id -> its name and description."""
    sides = "".join(_side(live, side, known.get(side.name) or Choice(side.name, side.name, "")) for side in live.sides)
    parts = [
        f'<p class="stage" role="status">{_STAGES[live.stage]} {_settings(live)}</p>',
        f'<div class="sides">{sides}</div>',
    ]
    if live.busy:
        parts.append(
            f'<p class="about">Run {html.escape(live.busy)} is in progress on this machine, '
            "so tokens/s and speed-up are not reliable now.</p>"
        )
    if live.ask.compare_plain:
        parts.append(_plain(live.plain))
    return _wrap("".join(parts) + tokens.legend_html() + _address(live.ask))


def address(ask: Ask) -> str | None:
    """The URL that fills the form with these settings; None if the prompt is too long for a URL."""
    if len(ask.prompt) > _LONGEST_IN_ADDRESS:
        return None
    return link(
        "live",
        run=ask.run_ids[0],
        run2=ask.run_ids[1] if len(ask.run_ids) > 1 else None,
        prompt=ask.prompt,
        context=ask.context or None,
        gamma=ask.gamma,
        temperature=ask.temperature,
        top_p=ask.top_p,
        top_k=ask.top_k,
        seed=ask.seed,
        max_new_tokens=ask.max_new_tokens,
        plain=int(ask.compare_plain),
    )


def _address(ask: Ask) -> str:
    url = address(ask)
    if url is None:
        return '<p class="about">The prompt is too long for a link; save the trace to share it.</p>'
    return f'<p><a href="{html.escape(url)}" target="_blank">Link to this view</a>: these settings and this prompt.</p>'


def _settings(live: Live) -> str:
    ask = live.ask
    settings = [f"gamma {ask.gamma}", f"temperature {ask.temperature:g}", f"seed {ask.seed}"]
    settings += [f"top-p {ask.top_p:g}"] if ask.top_p < 1 else []
    settings += [f"top-k {ask.top_k}"] if ask.top_k else []
    settings += [f"{live.conditions['dtype']} on {live.conditions['device']}"] if live.conditions else []
    settings += [f"with {live.context}"] if live.context else []
    target = f"Target {live.target}; " if live.target else ""
    return html.escape(target + ", ".join(settings))


def _side(live: Live, side: Side, choice: Choice) -> str:
    head = f'<h3>{html.escape(choice.name)}</h3><p class="about">{html.escape(choice.about)}</p>'
    if not side.rounds:
        return f"<section>{head}</section>"
    answer = tokens.strip_html(side.rounds) + tokens.answer_html(side.rounds)
    return f"<section>{head}{_figures(live, side)}{answer}</section>"


def _figures(live: Live, side: Side) -> str:
    counts = side.counts
    rates = counts.rates()
    judged = counts.accepted + counts.rejected
    figures = [
        (_number(rates["per_examined"]), "acceptance per_examined", f"{counts.accepted} of {judged} judged"),
        (_number(rates["per_proposed"]), "acceptance per_proposed", f"{counts.accepted} of {counts.drafted} proposed"),
        (_number(rates["tau"], 2), "tau, tokens per round", f"{counts.emitted} tokens, {counts.rounds} rounds"),
        (_number(side.tokens_per_s, 1), "tokens/s", f"{side.seconds:.2f} s of decoding"),
    ]
    if live.ask.compare_plain:
        gain = live.speedup(side)
        note = f"first {gain[1]} tokens, 1 answer" if gain else "after plain decoding"
        figures.append((f"{gain[0]:.2f}×" if gain else "–", "speed-up over plain", note))
    cells = "".join(f"<div><b>{value}</b><span>{name}</span><small>{n}</small></div>" for value, name, n in figures)
    return f'<div class="figures">{cells}</div>'


def _plain(side: Side) -> str:
    head = "<h3>Plain decoding: the target alone</h3>"
    if not side.rounds:
        return f'<section class="plain">{head}<p>starts after the drafts have finished</p></section>'
    text = "".join(tokens.visible(t.text) for r in side.rounds for t in r.tokens)
    return (
        f'<section class="plain">{head}<div class="figures"><div><b>{side.tokens_per_s:.1f}</b><span>tokens/s</span>'
        f"<small>{side.counts.emitted} tokens, {side.seconds:.2f} s</small></div></div>"
        f'<div class="tokens light" dir="auto">{text}</div></section>'
    )


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def as_data(live: Live) -> dict[str, Any]:
    """The state for programs: the stage, and each side's emitted token ids and counts."""
    sides = [{**_data(side), "speedup": (live.speedup(side) or (None,))[0]} for side in live.sides]
    return {"stage": live.stage, "sides": sides, "plain": _data(live.plain)}


def _data(side: Side) -> dict[str, Any]:
    ids = [t.token_id for r in side.rounds for t in r.tokens if t.fate in EMITTED]
    counts = side.counts
    return {
        "name": side.name,
        "token_ids": ids,
        "rounds": counts.rounds,
        "accepted": counts.accepted,
        "drafted": counts.drafted,
        "seconds": side.seconds,
        "ended": side.ended,
    }


def error(error: DraftbenchError) -> str:
    """A box with what went wrong, why, and what to do."""
    lines = [f"<p><b>{html.escape(error.what)}</b></p>"]
    lines += [
        f"<p>{name}: {html.escape(text)}</p>" for name, text in (("Why", error.why), ("What to do", error.fix)) if text
    ]
    return _wrap(f'<div class="box" role="alert">{"".join(lines)}</div>')


def not_here(wrong: Sequence[str]) -> str:
    """A box for a URL that asks for something unknown: a run without a draft, a sample, a number out of range."""
    return error(
        DraftbenchError(
            "; ".join(wrong), "the URL asks for it; the form shows what is used instead", "choose in the form"
        )
    )


def welcome(any_draft: bool) -> str:
    """The text shown before anything is decoded."""
    if not any_draft:
        return error(
            DraftbenchError(
                "no run has a draft yet", "the live view decodes with a trained draft", "start a run on the Launch page"
            )
        )
    return _wrap(
        "<p>Choose a prompt and a draft, then press Decode. The marks show what happened to each token; "
        "point at one, or touch it, to see p, q and its alternatives.</p>" + tokens.legend_html()
    )


def saved(ids: Sequence[str]) -> str:
    """Links to the saved traces on the Replay page."""
    links = ", ".join(
        f'<a href="{html.escape(link("replay", trace=trace_id))}" target="_blank">{html.escape(trace_id)}</a>'
        for trace_id in ids
    )
    return _wrap(f'<p role="status">Saved. Replay: {links}</p>')


def saved_as(files: Sequence[str]) -> str:
    """The files of the saved traces, for a server without a Replay page."""
    places = ", ".join(f"<code>{html.escape(file)}</code>" for file in files)
    return _wrap(f'<p role="status">Saved as {places}. The workbench can replay it.</p>')


def _wrap(inner: str) -> str:
    # In dark mode Gradio puts `dark` on the body, whose rules come later and win over `light` here.
    return f'<div class="live light">{inner}</div>'
