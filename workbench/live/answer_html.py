"""The live view's output as HTML: answers with fates, rounds, counters, errors. All text is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.decode.events import EMITTED
from engine.errors import DraftbenchError
from engine.measure.speed_words import compared
from engine.records.interval import Interval
from workbench.live.address import LONGEST, LONGEST_KEPT, address
from workbench.live.decode import Live, Side
from workbench.live.drafts import Choice
from workbench.live.sent import Sent
from workbench.shared import tokens
from workbench.shared.pages import link

CSS = """
.live{font-size:15px}
.live h3{margin:.1rem 0 .1rem;font-size:1.05rem;overflow-wrap:anywhere}
.live .about{opacity:.8;font-size:.86rem;margin:.2rem 0 .4rem;overflow-wrap:anywhere}
.live .stage{opacity:.8;font-size:.86rem;margin:0 0 .3rem}
.live .sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));gap:1.4rem}
.live .figures{font-size:.92rem;font-variant-numeric:tabular-nums;margin:.2rem 0 .3rem;overflow-wrap:anywhere}
.live .figures span{white-space:nowrap}
.live .figures span:not(:last-child)::after{content:" ·";opacity:.6}
.live .tokens{margin:.1rem 0 .6rem}
.live .legend{margin-top:.8rem;border-top:1px solid rgba(128,128,128,.3);padding-top:.6rem}
.live .plain{margin-top:1rem;border-top:1px solid rgba(128,128,128,.3);padding-top:.8rem}
.live .note{border-left:4px solid #E69F00;padding:.2rem .8rem;margin:.3rem 0;font-size:.9rem;overflow-wrap:anywhere}
.live pre{white-space:pre-wrap;overflow-wrap:anywhere;background:rgba(128,128,128,.12);padding:.7rem .9rem;
border-radius:.3rem;font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;max-height:26rem;overflow:auto}
.live .box{border-left:4px solid #D55E00;background:#D55E0018;padding:.7rem 1rem;border-radius:.3rem;
overflow-wrap:anywhere}
.live .box p{margin:.2rem 0}
body:has(#refused input:not(:checked)) .tokens .tok:is(.fate-rejected,.fate-discarded){display:none}
footer{display:none!important}
"""

_STAGES = {
    "loading": "Loading the models; this happens once.",
    "decoding": "Decoding. Press Stop to end after the current round.",
    "plain": "Decoding as many tokens without a draft, to measure the difference.",
    "alone": "Decoding without a draft. Press Stop to end after the current token.",
    "stopped": "Stopped.",
    "done": "Done.",
}


def page(live: Live, known: Mapping[str, Choice]) -> str:
    """The answer so far: tokens first, and below each answer its numbers. `known`: run id -> its description."""
    sides = [_side(live, side, known.get(side.name) or Choice(side.name, side.name)) for side in live.sides]
    if live.ask.draft_on:
        answers = f'<div class="sides">{"".join(sides)}</div>' + (_plain(live) if live.plain.rounds else "")
    else:
        earlier = "".join(shown for side, shown in zip(live.sides, sides, strict=True) if side.rounds)
        answers = _plain(live) + (f'<div class="plain sides">{earlier}</div>' if earlier else "")
    stage = f'<p class="stage" role="status">{_STAGES[live.stage]}</p>'
    legend = tokens.legend_html() if _proposed(live) else ""
    return _wrap(stage + _notes(live) + answers + legend + _below(live))


def _proposed(live: Live) -> bool:
    """Whether a draft's answer is in view: without one there are no marks, and neither gamma nor proposals matter."""
    return live.ask.draft_on or any(side.rounds for side in live.sides)


def _notes(live: Live) -> str:
    """What a visitor must know before believing the answer or its times."""
    notes = [f"{note[:1].upper()}{note[1:]}." for note in live.notes]
    if live.unused:
        notes.append(f"The target does not see all of this: {'; '.join(live.unused)}.")
    notes += live.rewritten
    if live.busy:
        notes.append(f"Run {live.busy} is in progress on this machine, so times are not reliable now.")
    return "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)


def _below(live: Live) -> str:
    """Settings and the link: below everything that is read first."""
    ask, url = live.ask, address(live.ask)
    settings = [f"gamma {ask.gamma}"] if _proposed(live) else []
    settings += [f"temperature {ask.temperature:g}"]
    settings += [f"{ask.proposals} proposals"] if _proposed(live) and ask.temperature > 0 else []  # one thing at 0
    settings += [f"top-p {ask.top_p:g}"] if ask.top_p < 1 else []
    settings += [f"top-k {ask.top_k}"] if ask.top_k else []
    settings += [f"seed {ask.seed}"]
    settings += [f"{live.conditions['dtype']} on {live.conditions['device']}"] if live.conditions else []
    settings += [f"with {live.context}"] if live.context else []
    settings += [f"prompt of {live.prompt_tokens:,} tokens"] if live.prompt_tokens else []
    target = f"Target {live.target}; " if live.target else ""
    parts = [f'<p class="about">{html.escape(target + ", ".join(settings))}</p>']
    if len(url) > LONGEST:
        parts.append(
            f'<p class="about">No link to this view: it would have {len(url):,} characters, more than the {LONGEST:,} '
            f"that mail and chat programs carry whole. Save the trace to share it.{_reload(url)}</p>"
        )
    else:
        parts.append(
            f'<p><a href="{html.escape(url)}" target="_blank">Link to this view</a>: these settings and this '
            "conversation.</p>"
        )
    return "".join(parts)


def _reload(url: str) -> str:
    return " A reload of this page loses it." if len(url) > LONGEST_KEPT else ""


def _side(live: Live, side: Side, choice: Choice) -> str:
    head = f"<h3>{html.escape(choice.name)}</h3>"
    about = f'<p class="about">{html.escape(choice.about)}</p>'
    if not side.rounds:
        return f"<section>{head}{about}</section>"
    parts = [
        head,
        tokens.answer_html(side.rounds),
        _figures(side),
        _difference(live, side, choice),
        _same_text(live, side),
    ]
    return f"<section>{''.join(parts)}{tokens.strip_html(side.rounds)}{about}</section>"


def _figures(side: Side) -> str:
    """The counters of an answer in one line."""
    counts = side.counts
    rates = counts.rates()
    judged = counts.accepted + counts.rejected
    figures = [
        ("per_examined", f"{_number(rates['per_examined'])} of judged accepted ({counts.accepted}/{judged})"),
        ("per_proposed", f"{_number(rates['per_proposed'])} of proposed ({counts.accepted}/{counts.drafted})"),
        ("tau: tokens per forward of the target", f"tau {_number(rates['tau'], 2)}"),
        (f"{_tokens(counts.emitted)} in {side.seconds:.2f} s", _pace(side)),
    ]
    shown = " ".join(f'<span title="{name}">{figure}</span>' for name, figure in figures)
    return f'<p class="figures">{shown}</p>'


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def _pace(side: Side) -> str:
    return f"{_number(side.tokens_per_s, 1)} tokens/s"


def _difference(live: Live, side: Side, choice: Choice) -> str:
    """Speculative against plain decoding: of this one answer, which has no interval, and as the run measured it."""
    gain = live.speedup(side)
    if gain is None:
        return ""
    ratio, shared = gain
    one = f"In this one answer, over its first {shared} tokens: {compared(Interval(ratio), 'plain decoding')}"
    many = f"; over the prompts of its run: {choice.measured}" if choice.measured else ""
    return f'<p class="figures difference">{html.escape(one + many)}.</p>'


def _same_text(live: Live, side: Side) -> str:
    """At temperature 0: whether the draft changed the text, and where."""
    same = live.same_text(side)
    if same is None:
        return ""
    if same.part is None:
        rest = "" if same.compared == same.length else ", as many as were decoded without it"
        said = f"yes, {same.compared} of {_tokens(same.length)}{rest}"
    else:
        said = (
            f"no, they part at token {same.part + 1} of {same.compared}: {tokens.plainly(same.ours)} with the draft, "
            f"{tokens.plainly(same.alone)} without. The target rounds otherwise where it checks several tokens at once "
            "than where it decodes one, which decides between tokens that are almost equally likely"
        )
    return f'<p class="figures same">Same text as without the draft: {html.escape(said)}.</p>'


def _plain(live: Live) -> str:
    side, head = live.plain, "<h3>Draft off: the target alone</h3>"
    if not side.rounds:
        return f"<section>{head}</section>"
    answer, after = live.alone_tokens()
    text = "".join(tokens.visible(token.text) for token in answer)
    figures = [_pace(side), _tokens(side.counts.emitted)]
    figures += [f"{after} of them after the end of its answer, to compare the times"] if after else []
    shown = " ".join(f"<span>{figure}</span>" for figure in figures)
    only = "" if live.ask.draft_on else ' class="alone"'
    return (
        f'<section class="plain"><div{only}>{head}<div class="tokens light" dir="auto">{text}</div>'
        f'<p class="figures">{shown}</p></div></section>'
    )


def answer_text(live: Live) -> str:
    """The first answer as text, without the mark that ended it."""
    rounds = (live.sides[0] if live.ask.draft_on else live.plain).rounds
    emitted = [token.text for item in rounds for token in item.tokens if token.fate in EMITTED]
    ended = bool(rounds) and rounds[-1].finish_reason == "stop"
    return "".join(emitted[:-1] if ended else emitted)


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def sent(shown: Sent) -> str:
    """The text that the target reads, its special tokens included."""
    room = f" of the {shown.context_tokens:,} that it can read" if shown.context_tokens else ""
    said = [f"Not in it: {'; '.join(shown.unused)}."] if shown.unused else []
    note = "".join(f'<p class="note">{html.escape(one)}</p>' for one in [*said, *shown.rewritten])
    return _wrap(
        f'<p class="stage" role="status">What {html.escape(shown.target)} reads, {len(shown.ids):,} tokens{room}; '
        f'the answer follows.</p>{note}<pre dir="auto">{tokens.visible(shown.text)}</pre>'
    )


def as_data(live: Live) -> dict[str, Any]:
    """The state for programs: the stage, and each side's emitted token ids and counts."""
    sides = [
        {**_data(side), "speedup": (live.speedup(side) or (None,))[0], "same_as_alone": _agrees(live, side)}
        for side in live.sides
    ]
    return {"stage": live.stage, "sides": sides, "plain": _data(live.plain)}


def _agrees(live: Live, side: Side) -> bool | None:
    same = live.same_text(side)
    return None if same is None else same.part is None


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
        f"<p>{name}: {_sentence(text)}</p>" for name, text in (("Why", error.why), ("What to do", error.fix)) if text
    ]
    return _wrap(f'<div class="box" role="alert">{"".join(lines)}</div>')


def _sentence(text: str) -> str:
    """Escaped text; what stands between backticks, a command, is shown as code."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without another
        return html.escape(text)
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


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
        "<p>Write a prompt or choose a sample, then press Decode. The marks show what happened to each token; "
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
