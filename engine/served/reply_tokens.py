"""The tokens that a server tells with its answer, out of `logprobs.content`, whatever it put there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

_LEAST_LOGPROB = -1000.0  # nothing that was drawn is less likely
_ROUNDING = 1e-3  # by which low precision may lift a log-probability over 0
_MOST = 2**31  # no count and no id is larger


@dataclass(frozen=True)
class ToldToken:
    """A token of an answer with the log-probability that the server gave it; None for what it does not say.

    `logprob` is of the token that was drawn, `best` of the likeliest one in its place, `spelt` its bytes.
    """

    logprob: float | None
    best: float | None
    id: int | None
    spelt: bytes | None


def told_tokens(told: Any) -> list[ToldToken]:
    """The tokens of `logprobs.content`; none if one of them is no token, since those after it have lost their place."""
    if not (isinstance(told, list) and all(isinstance(each, dict) for each in told)):
        return []
    return [_told_token(each) for each in told]


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a stranger's value is a number that counts something, or an id."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _told_token(told: Mapping[str, Any]) -> ToldToken:
    others = told.get("top_logprobs")
    others = others if isinstance(others, list) else []
    likely = [_logprob(each.get("logprob")) for each in others if isinstance(each, dict)]
    return ToldToken(
        _logprob(told.get("logprob")),
        max((each for each in likely if each is not None), default=None),
        _id(told),
        _bytes(told),
    )


def _logprob(told: Any) -> float | None:
    """A log-probability; None for what is none, such as the -9999 that stands for "too unlikely to be kept"."""
    usable = isinstance(told, int | float) and not isinstance(told, bool) and _LEAST_LOGPROB < told <= _ROUNDING
    return min(0.0, float(told)) if usable else None


def _id(told: Mapping[str, Any]) -> int | None:
    """A token's id, which llama.cpp tells beside it, and vLLM in its place if it is started so."""
    text = told.get("token")
    named = re.fullmatch(r"token_id:([0-9]{1,10})", text) if isinstance(text, str) else None
    found = int(named[1]) if named else told.get("id")
    return found if is_count(found) else None


def _bytes(told: Mapping[str, Any]) -> bytes | None:
    """What a token spells. Its text alone says so only if it is made of whole characters."""
    raw, text = told.get("bytes"), told.get("token")
    if isinstance(raw, list) and all(is_count(each) and each < 256 for each in raw):
        return bytes(raw)
    whole = isinstance(text, str) and "\ufffd" not in text and not text.startswith("token_id:")
    return text.encode("utf-8", "replace") if whole and text is not None else None
