"""The tokens of a server's answer with their log-probabilities, read from `logprobs.content` whatever is in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

_MIN_LOGPROB = -1000.0  # nothing that was drawn is less likely
_ROUNDING = 1e-3  # by which low precision may lift a log-probability above 0
_MAX_COUNT = 2**31  # no count and no id is larger


_REPLACED = "\ufffd".encode()  # what a server writes for bytes that are no whole character


@dataclass(frozen=True)
class Alternative:
    """One of the likeliest tokens at a position."""

    logprob: float | None
    """-inf for "too unlikely to be kept"; None for what is no log-probability at all."""
    id: int | None
    text: bytes | None
    """The bytes that the token stands for; None where they are not certain."""


@dataclass(frozen=True)
class ReplyToken:
    """A token of an answer; each field is None where the server does not send it."""

    logprob: float | None
    """Log-probability of the token."""
    top_logprob: float | None
    """Log-probability of the likeliest token at that position."""
    id: int | None
    text: bytes | None
    """The bytes that the token stands for."""
    alternatives: tuple[Alternative, ...] = ()
    """The likeliest tokens at that position, as they were sent: in any order, with or without the token itself."""


def read_reply_tokens(content: Any) -> list[ReplyToken]:
    """Read `logprobs.content`. One entry that is not a token makes the list empty: those after it lost their place."""
    if not (isinstance(content, list) and all(isinstance(entry, dict) for entry in content)):
        return []
    return [_reply_token(entry) for entry in content]


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value from a stranger is a count or an id."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT


def _reply_token(entry: Mapping[str, Any]) -> ReplyToken:
    others = entry.get("top_logprobs")
    others = [other for other in others if isinstance(other, dict)] if isinstance(others, list) else []
    top = [_logprob(other.get("logprob")) for other in others]
    return ReplyToken(
        _logprob(entry.get("logprob")),
        max((logprob for logprob in top if logprob is not None), default=None),
        _id(entry),
        _text(entry),
        tuple(_alternative(other) for other in others),
    )


def _alternative(entry: Mapping[str, Any]) -> Alternative:
    value = entry.get("logprob")
    too_unlikely = isinstance(value, int | float) and not isinstance(value, bool) and value <= _MIN_LOGPROB
    token_id, text = _id(entry), _text(entry)
    # vLLM writes the bytes of the name for a token that is named by its id, and of a mark for half a character.
    is_certain = text is not None and not _named_by_id(entry) and _REPLACED not in text
    return Alternative(-math.inf if too_unlikely else _logprob(value), token_id, text if is_certain else None)


def _named_by_id(entry: Mapping[str, Any]) -> bool:
    token = entry.get("token")
    return isinstance(token, str) and token.startswith("token_id:")


def _logprob(value: Any) -> float | None:
    """The value as a log-probability; None for anything else, such as -9999 for "too unlikely to be kept"."""
    is_logprob = isinstance(value, int | float) and not isinstance(value, bool) and _MIN_LOGPROB < value <= _ROUNDING
    return min(0.0, float(value)) if is_logprob else None


def _id(entry: Mapping[str, Any]) -> int | None:
    """The token's id: llama.cpp sends it beside the token, vLLM in place of the token if it is started that way."""
    text = entry.get("token")
    in_text = re.fullmatch(r"token_id:([0-9]{1,10})", text) if isinstance(text, str) else None
    token_id = int(in_text[1]) if in_text else entry.get("id")
    return token_id if is_count(token_id) else None


def _text(entry: Mapping[str, Any]) -> bytes | None:
    """The token's bytes. Its text stands for them only if it consists of whole characters."""
    raw, text = entry.get("bytes"), entry.get("token")
    if isinstance(raw, list) and all(is_count(byte) and byte < 256 for byte in raw):
        return bytes(raw)
    if not isinstance(text, str) or "\ufffd" in text or text.startswith("token_id:"):
        return None
    return text.encode("utf-8", "replace")
