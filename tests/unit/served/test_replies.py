"""The body of an answer: what is one, what is none, and what is noted of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from typing import Any

import pytest

from engine.served.client import ChatServer
from engine.served.replies import Reply, Unanswered, read_reply
from engine.served.request_rate import RateLimiter
from tests.chat_server import Said, Server, reply
from tests.unit.served.asking import (
    BODY,
    KEY,
    Clock,
    answer_of,
    ask,
    counted,
    message_of,
    spec_of,
)

ODD_REASONS: list[Any] = [["stop"], {"stop": 1}, None, 7, True, f"see {KEY}"]


@pytest.mark.parametrize("reason", ODD_REASONS)
def test_an_odd_reason_to_finish_is_no_answer_and_shows_no_key(server: Server, clock: Clock, reason: Any):
    server.script = lambda body, number: Said(body=reply("yes", reason))
    with pytest.raises(Unanswered, match="finish_reason") as error:
        ask(spec_of(server), clock, key=KEY)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("usage", [[1], "9", 9, True, {"prompt_tokens": "9"}, {"prompt_tokens": True}, None])
def test_an_odd_count_of_tokens_is_none(server: Server, clock: Clock, usage: Any):
    server.script = lambda body, number: Said(body=reply("yes", token_ids=[True, 5]) | {"usage": usage})
    assert ask(spec_of(server), clock) == [Reply("yes", "stop")]


def test_ids_reasoning_and_prompt_tokens_are_read_where_a_server_tells_them(server: Server, clock: Clock):
    response = reply("yes", token_ids=[5, 6, 1]) | {"usage": {"prompt_tokens": 9}}
    response["choices"][0]["message"]["reasoning_content"] = "hm"
    server.script = lambda body, number: Said(body=response)
    assert ask(spec_of(server), clock) == [Reply("yes", "stop", [], "hm", [5, 6, 1], 9)]


def test_an_answer_that_was_censored_is_none(server: Server, clock: Clock):
    server.script = lambda body, number: Said(body=reply("I", "content_filter"))
    with pytest.raises(Unanswered, match="content_filter"):
        ask(spec_of(server), clock)
    assert len(server.requests) == 1


ABSENT = {
    "null": message_of(content=None),
    "null, counted": counted(message_of(content=None), 57),
    "no content": message_of(),
    "empty, but counted": counted(message_of(content=""), 57),
    "three letters of 57 tokens": counted(message_of(content="yes"), 57),
    "content of another kind": message_of(content={"text": "yes"}),
    "no message": {"choices": [{"finish_reason": "stop"}]},
    "no choices": {"choices": []},
    "an error and choices": {"error": {"message": "busy"}, **message_of(content="yes")},
    "an error in the choice": {"choices": [{"error": "busy", "message": {"content": "yes"}, "finish_reason": "stop"}]},
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_absent_is_asked_for_again_and_never_an_empty_answer(server: Server, clock: Clock, name: str):
    with pytest.raises(Unanswered, match="2 attempts"):
        answer_of(ABSENT[name], server, clock)
    assert len(server.requests) == 2


OTHER = {
    "a text of the completions API": ({"choices": [{"text": "yes", "finish_reason": "stop"}]}, "completions API"),
    "a piece of a stream": ({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}, "stream"),
    "a refusal": (message_of(content=None, refusal="I will not"), "refuses: I will not"),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_asking_again_does_not_change_is_not_asked_again(server: Server, clock: Clock, name: str):
    output, words = OTHER[name]
    with pytest.raises(Unanswered, match=words):
        answer_of(output, server, clock)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said", [message_of(content=""), counted(message_of(content=""), 1), counted(message_of(content=None), 1)]
)
def test_an_answer_that_says_nothing_and_counts_nothing_is_one(server: Server, clock: Clock, said: dict[str, Any]):
    assert answer_of(said, server, clock).text == ""


@pytest.mark.parametrize(
    "message",
    [{"reasoning": "hm"}, {"thinking": "hm"}, {"reasoning_details": [{"text": "hm"}]}, {"reasoning_content": ["hm"]}],
)
def test_reasoning_of_every_form_is_seen(server: Server, clock: Clock, message: dict[str, Any]):
    assert answer_of(message_of(content="yes", **message), server, clock).reasoning
    hidden = counted(message_of(content="yes"), 9, completion_tokens_details={"reasoning_tokens": 5})
    assert answer_of(hidden, server, clock).reasoning


def test_another_model_is_counted(server: Server, clock: Clock):
    result = answer_of({**message_of(content="yes"), "model": "another"}, server, clock)
    assert result.noted == ("answered as model 'another'",)


def test_a_call_of_the_older_form_is_a_call(server: Server, clock: Clock):
    call = {"name": "add", "arguments": "{}"}
    result = answer_of(message_of(content=None, function_call=call), server, clock)
    assert result.tool_calls == [{"type": "function", "function": call}]


BOMB = gzip.compress(b" " * 50_000_000)


@pytest.mark.parametrize("packed", ["gzip", "gzip, gzip", "br"])
def test_a_body_is_not_unpacked_beyond_its_limit(server: Server, clock: Clock, packed: str):
    server.script = lambda body, number: Said(body=BOMB, headers={"Content-Encoding": packed})
    tracemalloc.start()
    with pytest.raises(Unanswered, match=r"MB|encoding"):
        ask(spec_of(server, attempts=1, timeout_s=60), clock)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_a_packed_answer_is_read(server: Server, clock: Clock):
    raw = gzip.compress(json.dumps(reply("packed")).encode())
    server.script = lambda body, number: Said(body=raw, headers={"Content-Encoding": "gzip"})
    assert ask(spec_of(server), clock)[0].text == "packed"


def of_message(**message: Any) -> Reply:
    output = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}
    return read_reply(json.dumps(output).encode(), str)


@pytest.mark.parametrize(
    "message",
    [{"thinking_blocks": [{"thinking": "hm"}]}, {"reasoning_text": "hm"}, {"reasoning": "hm"}, {"thoughts": ["hm"]}],
)
def test_reasoning_is_seen_by_whatever_name_it_was_taken_out(message: dict[str, Any]):
    assert "hm" in of_message(content="yes", **message).reasoning


def test_a_refusal_of_any_form_is_no_answer_and_beside_text_it_is_counted():
    with pytest.raises(Unanswered, match="refuses"):
        of_message(content="", refusal={"reason": "no"})
    assert of_message(content="no", refusal="no").noted == ("a refusal beside the text",)
    assert of_message(content="yes", role="user").noted == ("answered as role 'user'",)


def test_of_several_choices_the_first_by_its_number_is_taken():
    choices = [{"index": number, "message": {"content": str(number)}, "finish_reason": "stop"} for number in (2, 0, 1)]
    assert read_reply(json.dumps({"choices": choices}).encode(), str).text == "0"


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


@pytest.mark.parametrize("word", ["tool_calls", "function_call", "tool_use"])
def test_calls_that_are_announced_and_missing_are_no_plain_answer(word: str):
    def ended(**choice: Any) -> Reply:
        said = {"message": {"content": "Let me look."}, "finish_reason": word, **choice}
        return read_reply(json.dumps({"choices": [said]}).encode(), str)

    with pytest.raises(Unanswered, match=f"ended with '{word}' and has none"):
        ended()
    assert ended(token_ids=[5, 6]).token_ids == [5, 6]  # which hold them
    call = {"function": {"name": "look", "arguments": "{}"}}
    assert ended(message={"content": "Let me look.", "tool_calls": [call]}).tool_calls == [call]


@pytest.mark.parametrize("part", [{"type": "tool_use", "name": "look", "input": {}}, {"type": "image"}, {"text": 3}, 7])
def test_an_answer_with_a_part_that_is_no_text_is_not_whole(part: Any):
    with pytest.raises(Unanswered, match=r"the answer holds a part of type .*; only text"):
        of_message(content=[{"type": "text", "text": "Let me look."}, part])


def test_parts_of_text_are_one_text_and_reasoning_is_none_of_it():
    thought = {"type": "reasoning", "text": "hm"}
    reply = of_message(content=[thought, {"text": "a"}, "b", None, {"type": "output_text", "text": "c"}])
    assert reply.text == "abc"
    assert "hm" in reply.reasoning
    with pytest.raises(Unanswered, match="refuses"):
        of_message(content=[{"type": "refusal", "refusal": "no"}])
