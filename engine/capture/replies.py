"""What a server's answer says: its body as a Reply, or why it is none.

A stranger writes these bodies, so nothing in them is taken to have the type that the API promises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_STOPPED = {"stop", "tool_calls", "function_call", "eos"}
_LEAST_LOGPROB = -1000.0  # nothing that was drawn is less likely
_ROUNDING = 1e-3  # by which low precision may lift a log-probability over 0


@dataclass(frozen=True)
class ToldToken:
    """A token of an answer with the log-probability that the server gave it; None for what it does not say.

    `logprob` is of the token that was drawn, `best` of the likeliest one in its place, `spelt` its bytes.
    """

    logprob: float | None
    best: float | None
    id: int | None
    spelt: bytes | None


@dataclass(frozen=True)
class Reply:
    """What a server answered. `token_ids` only from servers that tell them, end of turn included.

    `tokens`: with log-probabilities, if they were asked for and the server tells them; else none.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    reasoning: str = ""  # text that the server took out of the answer
    token_ids: list[int] | None = None
    prompt_tokens: int | None = None
    tokens: list[ToldToken] = field(default_factory=list)


class Unanswered(Exception):
    """One prompt got no usable answer; the message is the last cause, without the key.

    `in_vain`: every attempt failed in a way that may pass, so the server may be gone. Else the
    server did answer, only not with something to learn from: it refused, or was not understood.
    """

    def __init__(self, why: str, *, in_vain: bool = False) -> None:
        super().__init__(why)
        self.in_vain = in_vain


class Again(Exception):
    """An attempt failed in a way that may pass."""


def read_reply(body: bytes, shown: Callable[[object], str]) -> Reply:
    """The reply in a response's body; `shown` makes a line of a stranger's text that may be repeated in an error.

    Raises Again if the body is empty, broken or holds no text, and Unanswered if the answer was
    cut off by a filter or has calls that are none.
    """
    if not body.strip():
        raise Again("an empty answer")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise Again(f"an answer that is not whole JSON: {shown(_decoded(body))}") from None
    choices = told.get("choices") if isinstance(told, dict) else None
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        raise Again(f"an answer without choices: {shown(_decoded(body))}")
    reply = _reply(told, choices[0], shown)
    if reply.finish_reason == "length" and not (reply.text or reply.tool_calls or reply.reasoning or reply.token_ids):
        raise Again("an answer without text")
    return reply


def _reply(told: Mapping[str, Any], choice: Mapping[str, Any], shown: Callable[[object], str]) -> Reply:
    message, reason = _object(choice.get("message")), choice.get("finish_reason")
    if not isinstance(reason, str) or reason not in {*_STOPPED, "length"}:
        raise Unanswered(f"the answer ended with finish_reason {shown(repr(reason))} (not asked again)")
    calls = message.get("tool_calls") or []
    if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise Unanswered(f"function calls that cannot be read: {shown(repr(calls))} (not asked again)")
    prompt_tokens = _object(told.get("usage")).get("prompt_tokens")
    return Reply(
        _text(message.get("content")),
        "length" if reason == "length" else "stop",
        calls,
        _text(message.get("reasoning_content") or message.get("reasoning")),
        _token_ids(choice.get("token_ids")),
        prompt_tokens if _is_count(prompt_tokens) else None,
        _told_tokens(_object(choice.get("logprobs")).get("content")),
    )


def _told_tokens(told: Any) -> list[ToldToken]:
    """The tokens of `logprobs.content`; none if one of them is no token, since those behind it have lost their place."""
    if not (isinstance(told, list) and all(isinstance(each, dict) for each in told)):
        return []
    return [_told_token(each) for each in told]


def _told_token(told: Mapping[str, Any]) -> ToldToken:
    others = told.get("top_logprobs")
    likely = [_logprob(_object(each).get("logprob")) for each in others] if isinstance(others, list) else []
    return ToldToken(
        _logprob(told.get("logprob")), max((each for each in likely if each is not None), default=None), _id(told),
        _bytes(told),
    )  # fmt: skip


def _logprob(told: Any) -> float | None:
    """A log-probability; None for what is none, such as the -9999 that stands for "too unlikely to be kept"."""
    usable = isinstance(told, int | float) and not isinstance(told, bool) and _LEAST_LOGPROB < told <= _ROUNDING
    return min(0.0, float(told)) if usable else None


def _id(told: Mapping[str, Any]) -> int | None:
    """A token's id, which llama.cpp tells beside it, and vLLM in its place if it is started so."""
    named = re.fullmatch(r"token_id:(\d+)", str(told.get("token")))
    found = int(named[1]) if named else told.get("id")
    return found if _is_count(found) else None


def _bytes(told: Mapping[str, Any]) -> bytes | None:
    """What a token spells. Its text alone says so only if it is made of whole characters."""
    raw, text = told.get("bytes"), told.get("token")
    if isinstance(raw, list) and all(_is_count(each) and 0 <= each < 256 for each in raw):
        return bytes(raw)
    whole = isinstance(text, str) and "\ufffd" not in text and not text.startswith("token_id:")
    return text.encode("utf-8", "replace") if whole and text is not None else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _token_ids(told: Any) -> list[int] | None:
    return told if isinstance(told, list) and told and all(_is_count(each) for each in told) else None


def _text(content: Any) -> str:
    """Text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _decoded(body: bytes) -> str:
    return body.decode("utf-8", "replace")
