"""The finish reasons by which servers say how an answer ended.

The API defines stop, length, tool_calls, function_call and content_filter. Servers have words of their own for the
same (TGI's `eos_token`, Anthropic's `end_turn`, Gemini's `FinishReason.MAX_TOKENS`). An unknown word counts as an end
unless it speaks of a limit, a filter or a failure. Every word beyond the API's is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

Ending = Literal["stop", "length", "refused", "failed"]

ENDING_KEYS = ("finish_reason", "stop_reason", "finishReason", "done_reason")
"""Where a logged message, or the row around it, says how its answer ended."""
API = frozenset({"stop", "length", "tool_calls", "function_call"})
_CALLS = frozenset({"tool_calls", "tool_call", "tool_use", "function_call", "function_calls"})
_WORDS: dict[Ending, frozenset[str]] = {
    "stop": API - {"length"},
    "length": frozenset(
        {
            "length",
            "max_tokens",
            "max_token",
            "max_length",
            "max_new_tokens",
            "max_output_tokens",
            "max_completion_tokens",
            "model_length",
            "token_limit",
            "limit",
            "context_length",
            "context_length_exceeded",
            "context_window_exceeded",
            "model_context_window_exceeded",
            "incomplete",
            "truncated",
            "maxtokens",
            "stopped_limit",
        }
    ),
    "refused": frozenset(
        {
            "content_filter",
            "content_filtered",
            "filtered",
            "safety",
            "recitation",
            "refusal",
            "refused",
            "blocked",
            "blocklist",
            "prohibited_content",
            "spii",
            "sensitive",
            "error_toxic",
            "guardrail_intervened",
            "language",
            "malformed_function_call",
        }
    ),
    "failed": frozenset(
        {
            "error",
            "abort",
            "aborted",
            "cancel",
            "cancelled",
            "canceled",
            "timeout",
            "time_limit",
            "interrupted",
            "failed",
            "preempted",
            "network_error",
            "server_error",
            "user_cancel",
            "unavailable",
            "insufficient_system_resource",
            "in_progress",
            "pause_turn",
            "load",
            "unload",
        }
    ),
}
# What unknown words are about. If they all counted as an end, a cut answer would be learnt as one that ended.
_ABOUT: tuple[tuple[re.Pattern[str], Ending], ...] = (
    (
        re.compile(
            r"err|fail|abort|cancel|time_?out|memory|oom|_full|rate_limit|quota|unload|shut|disconn|overload|kill"
        ),
        "failed",
    ),
    (re.compile(r"filter|safe|block|refus|polic|moderat|prohibit|harm"), "refused"),
    (re.compile(r"length|limit|max|trunc|exceed|budget|cut"), "length"),
)


def ending_word(holder: Mapping[str, Any]) -> str | None:
    """The word by which a logged message or row says how its answer ended; None if it says nothing."""
    words = (holder.get(key) for key in ENDING_KEYS)
    return next((word for word in words if isinstance(word, str) and word.strip()), None)


def ends_in_calls(word: str) -> bool:
    """Whether a finish reason says that the answer ended with function calls."""
    return _plain(word) in _CALLS


def ending_of(word: str) -> Ending:
    """Whether a finish reason, in any case, says that the answer ended, was cut, was refused, or failed."""
    plain = _plain(word)
    for ending, words in _WORDS.items():
        if plain in words:
            return ending
    return next((ending for about, ending in _ABOUT if about.search(plain)), "stop")


def _plain(word: str) -> str:
    return word.strip().rpartition(".")[2].lower().replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
