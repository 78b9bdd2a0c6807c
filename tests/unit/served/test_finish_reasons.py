"""How servers say that an answer ended."""

from __future__ import annotations

import asyncio

import pytest

from engine.served.client import ChatServer
from engine.served.finish_reasons import ending_of
from engine.served.replies import Reply, Unanswered
from engine.served.request_rate import RateLimiter
from tests.chat_server import Said, Server, reply
from tests.unit.served.asking import (
    BODY,
    Clock,
    answer_of,
    counted,
    spec_of,
)

ENDS = [
    ("eos_token", "stop"),
    ("stop_sequence", "stop"),
    ("end_turn", "stop"),
    ("STOP", "stop"),
    ("served_up", "stop"),
    ("MAX_TOKENS", "length"),
    ("max-tokens", "length"),
]


@pytest.mark.parametrize(("word", "ending"), ENDS)
def test_words_of_a_servers_own_for_an_end_are_read_and_counted(server: Server, clock: Clock, word: str, ending: str):
    result = answer_of(reply("yes", word), server, clock)
    assert (result.text, result.finish_reason, result.noted) == ("yes", ending, (f"finish_reason {word!r}",))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("word", "times"), [("abort", 2), ("error", 2), ("SAFETY", 1), ("content-filter", 1)])
def test_words_for_no_end_are_no_answer(server: Server, clock: Clock, word: str, times: int):
    with pytest.raises(Unanswered, match="finish_reason"):
        answer_of(reply("yes", word), server, clock)
    assert len(server.requests) == times


@pytest.mark.parametrize(("tokens", "ending"), [(4, "stop"), (8, "length")])
def test_without_a_word_the_count_says_how_an_answer_ended(server: Server, clock: Clock, tokens: int, ending: str):
    server.script = lambda body, number: Said(body=counted(reply("yes yes", None), tokens))

    async def work() -> Reply:
        async with ChatServer(spec_of(server), None, RateLimiter(None, clock, clock.sleep)) as client:
            return await client.answer({**BODY, "max_tokens": 8})

    result = asyncio.run(work())
    assert (result.finish_reason, result.noted) == (ending, ("no finish_reason",))


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
