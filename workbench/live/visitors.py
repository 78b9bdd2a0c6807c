"""What a visitor does: decode, stop, look at what is sent, save. Each visitor's answer and stop flag are their own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from engine.errors import DraftbenchError
from engine.paths import home
from engine.runs.faults import explain
from engine.traces.saved import save_trace
from workbench.live import address, answer_html, sent
from workbench.live.conversation import read_form
from workbench.live.decode import Ask, Live, decode
from workbench.live.drafts import described

_log = logging.getLogger("draftbench")
Shown = tuple[str, dict[str, Any]]


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

    def begin(self, key: str) -> tuple[Session, Live | None]:
        """Stop the visitor's last session and replace it by a new one; also its answer."""
        with self._lock:
            last = self._sessions.get(key)
            if last is not None:
                last.stop.set()
            self._sessions[key] = Session()
            return self._sessions[key], last.live if last else None

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


def show_decoding(
    system: str | None,
    turns: Any,
    tools: str | None,
    run: str | None,
    run2: str | None,
    gamma: float,
    temperature: float,
    top_p: float,
    top_k: float,
    proposals: str,
    seed: float,
    max_new_tokens: float,
    compare_plain: bool,
    draft_on: bool,
    request: gr.Request,
) -> Iterator[Shown]:
    """Decode for this visitor; yield the page's HTML and the same as data after every round."""
    session, before = SESSIONS.begin(str(request.session_hash))
    numbers = (gamma, temperature, top_p, top_k, seed, max_new_tokens)
    try:
        ask = _ask(system, turns, tools, (run, run2), numbers, proposals, (compare_plain, draft_on))
        known = described(home(), ask.run_ids)
        for live in decode(home(), ask, session.stop, before):
            session.live = live
            yield answer_html.page(live, known), answer_html.as_data(live)
    except Exception as error:
        explained = _explained(error)
        yield answer_html.error(explained), {"stage": "error", "error": explained.as_dict()}


def _ask(
    system: str | None,
    turns: Any,
    tools: str | None,
    named: Sequence[str | None],
    numbers: Sequence[float | None],
    proposals: str,
    switches: Sequence[bool],
) -> Ask:
    """What the form asks for. `numbers`: in the order of the form; `switches`: the difference, and the draft."""
    if None in numbers:
        raise DraftbenchError("a setting is empty", "all of them affect the result", "enter a number")
    gamma, temperature, top_p, top_k, seed, max_new_tokens = (number or 0 for number in numbers)
    return Ask(
        read_form(turns, system, tools),
        tuple(dict.fromkeys(name.strip() for name in named if name and name.strip())),
        int(gamma),
        float(temperature),
        float(top_p),
        int(top_k),
        proposals,  # type: ignore[arg-type]  # `check` refuses others
        int(seed),
        int(max_new_tokens),
        *(bool(switch) for switch in switches),
    )


def kept_address(
    system: str | None, turns: Any, tools: str | None, run: str | None, run2: str | None, *rest: Any
) -> str:
    """The view's address for the browser's own address bar, so that a reload loses no turn; '' leaves it as it is.

    `rest`: the other values of `show_decoding`, in its order.
    """
    gamma, temperature, top_p, top_k, proposals, seed, most, compare_plain, draft_on = rest
    numbers = (gamma, temperature, top_p, top_k, seed, most)
    try:
        ask = _ask(system, turns, tools, (run, run2), numbers, proposals, (compare_plain, draft_on))
        ask.check()
    except DraftbenchError:
        return ""  # `show_decoding` says what is wrong
    url = address.address(ask)
    return url if len(url) <= address.LONGEST_KEPT else ""


def _explained(error: Exception) -> DraftbenchError:
    """The error as a box can show it; one that is a bug is logged."""
    explained = error if isinstance(error, DraftbenchError) else explain(error)
    if explained is not None:
        return explained
    _log.error("the live view failed", exc_info=error)
    return DraftbenchError(
        f"{type(error).__name__}: {error}", "this is a bug in Draftbench", "see the server's log for details"
    )


def show_sent(
    system: str | None, turns: Any, tools: str | None, run: str | None, max_new_tokens: float | None
) -> Shown:
    """The text that the target would read, as HTML and as data."""
    try:
        text = sent.prompt_of(home(), read_form(turns, system, tools), (run or "").strip(), int(max_new_tokens or 0))
    except Exception as error:
        explained = _explained(error)
        return answer_html.error(explained), {"error": explained.as_dict()}
    return answer_html.sent(text), {
        "text": text.text,
        "tokens": len(text.ids),
        "unused": text.unused,
        "rewritten": text.rewritten,
    }


def stop(request: gr.Request) -> None:
    """Stop this visitor's decoding before its next round."""
    session = SESSIONS.of(str(request.session_hash))
    if session:
        session.stop.set()


def continued(request: gr.Request) -> tuple[str, Any]:
    """The turns with this visitor's answer after them, and an empty question to go on with; a box if there is none."""
    session = SESSIONS.of(str(request.session_hash))
    live = session.live if session else None
    answer = answer_html.answer_text(live) if live else ""
    if live is None or not answer:
        return answer_html.error(
            DraftbenchError("there is no answer to continue", "nothing has been decoded yet", "press Decode first")
        ), gr.skip()
    messages = list(live.ask.conversation.messages)
    asked = messages[1:] if messages[0]["role"] == "system" else messages
    return "", [*asked, {"role": "assistant", "content": answer}, {"role": "user", "content": ""}]


def save(request: gr.Request, replay: bool = True) -> tuple[str, list[str]]:
    """Save this visitor's answers as traces; return a line of links, and the ids. `replay`: is there a Replay page?"""
    session = SESSIONS.of(str(request.session_hash))
    live = session.live if session else None
    shown = [] if live is None else live.sides if live.ask.draft_on else [live.plain]
    answers = [side for side in shown if side.rounds]
    if live is None or not answers:
        return answer_html.error(
            DraftbenchError("nothing to save", "nothing has been decoded yet", "press Decode first")
        ), []
    try:
        ids = [save_trace(home(), live.trace(side)) for side in answers]
    except DraftbenchError as error:
        return answer_html.error(error), []
    return answer_html.saved(ids) if replay else answer_html.saved_as([str(home().trace(one)) for one in ids]), ids


def leave(request: gr.Request) -> None:
    """Forget a visitor who has left."""
    SESSIONS.end(str(request.session_hash))
