"""How servers and logs say that an answer ended."""

from __future__ import annotations

import pytest

from engine.chat.finish_reasons import ending_of, ends_in_calls


@pytest.mark.parametrize(
    ("word", "ending"),
    [
        ("stop", "stop"),
        ("FinishReason.STOP", "stop"),
        ("eos", "stop"),
        ("generated", "stop"),
        ("tool_use", "stop"),
        ("FinishReason.MAX_TOKENS", "length"),
        ("maxTokens", "length"),
        ("stopped_limit", "length"),
        ("token_limit_exceeded", "length"),
        ("max_output_reached", "length"),
        ("load", "failed"),
        ("unload", "failed"),
        ("kv_cache_full", "failed"),
        ("out_of_memory", "failed"),
        ("rate_limit_exceeded", "failed"),
        ("shutdown", "failed"),
        ("moderated", "refused"),
        ("safety_stop", "refused"),
    ],
)
def test_a_word_that_speaks_of_a_limit_a_filter_or_a_failure_is_no_end(word: str, ending: str):
    assert ending_of(word) == ending


@pytest.mark.parametrize(
    ("word", "calls"), [("tool_calls", True), ("FinishReason.TOOL_CALLS", True), ("tool-use", True), ("stop", False)]
)
def test_some_words_say_that_there_are_calls(word: str, calls: bool):
    assert ends_in_calls(word) is calls
    assert ending_of(word) == "stop"
