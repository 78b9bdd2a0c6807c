"""A server's count of tokens: what cannot be is not used, what is far off is said, whoever reads the reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.chat.prompt import Prompt
from engine.config.schema import MeasureSpec
from engine.errors import DraftbenchError
from engine.progress import Progress
from engine.served.replies import Reply, Retry, read_reply
from engine.served.speed import measure_server
from engine.served.token_counts import FAR_OFF
from tests.chat_server import Said, Server
from tests.unit.served.asking import counted, message_of, spec_of

TEXT = "A cell is the smallest unit of life. " * 15  # 555 bytes
NO_TOKENS, TOO_MANY = "a count of 0 tokens beside an answer", "a count of more tokens than were asked for"


def read(content: str | None, tokens: int, **choice: Any) -> Reply:
    body = counted(message_of(content=content), tokens)
    body["choices"][0] |= choice
    return read_reply(json.dumps(body).encode(), str, {"max_tokens": 50})


@pytest.mark.parametrize(
    ("tokens", "count", "problem", "noted"),
    [
        (0, None, NO_TOKENS, (NO_TOKENS,)),
        (500, None, TOO_MANY, (TOO_MANY,)),
        (51, None, TOO_MANY, (TOO_MANY,)),
        (1, 1, "", (FAR_OFF,)),
        (50, 50, "", ()),
        (31, 31, "", ()),
    ],
)
def test_a_count_beside_a_text(tokens: int, count: int | None, problem: str, noted: tuple[str, ...]):
    """555 bytes: 31 tokens of 16 bytes and 64 bytes are the fewest that are not said to be far off."""
    reply = read(TEXT, tokens)
    assert (reply.completion_tokens, reply.count_problem, reply.noted) == (count, problem, noted)
    assert reply.text == TEXT


def test_ids_that_the_server_sends_decide_whether_its_count_is_far_off():
    assert read(TEXT, 40, token_ids=[5] * 40).noted == ()
    assert read(TEXT, 4, token_ids=[5] * 40).noted == ()
    assert read(TEXT, 3, token_ids=[5] * 40).noted == (FAR_OFF,)


def test_a_text_that_is_missing_is_missing_whatever_was_allowed():
    with pytest.raises(Retry, match="500 tokens with 3 bytes"):
        read("yes", 500)
    with pytest.raises(Retry, match="without text, of 500 tokens"):
        read("", 500)
    assert read("", 0).completion_tokens == 0


def test_a_count_that_cannot_be_does_not_say_how_an_answer_ended():
    for tokens in (0, 51):
        with pytest.raises(Exception, match="finish_reason null"):
            read(TEXT, tokens, finish_reason=None)


PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"p{i}"},)) for i in range(4)]


def timed(server: Server, tokens: dict[str, int]) -> tuple[list[str], list[str], str]:
    """Prompts that were timed, reasons why others were not, and what was said."""

    def script(body: dict[str, Any], number: int) -> Said:
        return Said(body=counted(message_of(content=TEXT), tokens[body["messages"][-1]["content"]]))

    server.script = script
    settings = MeasureSpec(speed_prompts=4, speed_tokens=200)
    said: list[str] = []
    progress = Progress(quiet=True, log=said.append)
    measured, left_out = measure_server(spec_of(server), PROMPTS, settings, progress=progress)
    return list(measured.tables["speed"].prompt_id), left_out, "".join(said)


def test_speed_leaves_out_what_cannot_be_and_says_what_is_far_off(server: Server):
    kept, left_out, said = timed(server, {"p0": 120, "p1": 0, "p2": 500, "p3": 1})
    assert kept == ["p0", "p3"]
    assert left_out == [f"p1: {NO_TOKENS}", f"p2: {TOO_MANY}"]
    assert f"in 1 of 2 timed answers: {FAR_OFF}" in said


def test_of_a_server_that_never_counts_right_there_is_no_speed(server: Server):
    with pytest.raises(DraftbenchError, match="no answer that can be timed") as error:
        timed(server, {f"p{i}": 0 for i in range(4)})
    assert NO_TOKENS in error.value.why
