"""A server that answers 429, 500, half a body or nothing: asked again, then a clear error."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from engine.errors import DraftbenchError
from engine.served.replies import Unanswered
from tests.chat_server import Said, Server, chat_server, good, reply
from tests.unit.served.asking import (
    Clock,
    ask,
    first,
    spec_of,
)

PASSING = {
    "429": Said(429, {"error": "slow down"}, {"Retry-After": "7"}),
    "503": Said(503, {"error": "loading"}, {"Retry-After": "7"}),
    "500": Said(500, {"error": "oops"}),
    "502": Said(502, b"<html>bad gateway</html>"),
    "half a body": Said(body=reply("a long answer"), cut=True),
    "nothing": Said(close=True),
    "an empty body": Said(body=b""),
    "garbage": Said(body=b'{"choices": [{"mess'),
    "no choices": Said(body={"choices": []}),
    "an error with status 200": Said(body={"error": "overloaded"}),
    "no text at all": Said(body=reply("", "length")),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_again(server: Server, clock: Clock, fault: str):
    server.script = first(PASSING[fault], PASSING[fault])
    assert [r.text for r in ask(spec_of(server), clock)] == ["about hi"]
    assert len(server.requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING)
def test_what_does_not_pass_ends_in_words_after_so_many_attempts(server: Server, clock: Clock, fault: str):
    server.script = lambda body, number: PASSING[fault]
    with pytest.raises(Unanswered, match=r"\(4 attempts\)"):
        ask(spec_of(server, attempts=4), clock)
    assert len(server.requests) == 4


@pytest.mark.slow
def test_a_slow_server_is_given_up_and_asked_again(server: Server, clock: Clock):
    server.script = first(Said(body=reply("late"), wait_s=1.0))
    assert ask(spec_of(server, timeout_s=0.3), clock)[0].text == "about hi"
    server.script = lambda body, number: Said(body=reply("late"), wait_s=0.5)
    with pytest.raises(Unanswered, match=r"no answer within 0\.1 s"):
        ask(spec_of(server, timeout_s=0.1, attempts=2), clock)


def test_nobody_listening_is_said_so(clock: Clock):
    with chat_server() as gone:
        spec = spec_of(gone, attempts=2)
    with pytest.raises(Unanswered, match=r"ConnectError.*2 attempts"):
        ask(spec, clock)


def test_waits_double_and_a_busy_servers_wish_is_followed(server: Server, clock: Clock):
    server.script = lambda body, number: Said(500, {})
    with pytest.raises(Unanswered):
        ask(spec_of(server, attempts=5), clock)
    assert all(longest / 2 <= slept <= longest for slept, longest in zip(clock.slept, (1, 2, 4, 8), strict=True))
    clock.slept.clear()
    began = clock.now
    server.requests.clear()
    server.script = first(Said(429, {}, {"Retry-After": "90"}))
    ask(spec_of(server), clock)
    assert 90 <= clock.now - began <= 92


def test_a_busy_server_may_name_a_date(server: Server, clock: Clock):
    server.script = first(Said(503, {}, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=40))}))
    began = clock.now
    ask(spec_of(server), clock)
    assert 35 < clock.now - began < 43


@pytest.mark.parametrize("senseless", ["soon", "-5", "nan", "Mon, 99 Foo"])
def test_a_senseless_wish_is_no_wish(server: Server, clock: Clock, senseless: str):
    server.script = first(Said(503, {}, {"Retry-After": senseless}))
    began = clock.now
    ask(spec_of(server), clock)
    assert clock.now - began <= 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}])
def test_a_limit_by_the_minute_is_outlasted_where_the_server_names_no_time(
    server: Server, clock: Clock, headers: dict[str, str]
):
    ends = clock.now + 61
    server.script = lambda body, number: good(body, number) if clock.now > ends else Said(429, {}, headers)
    assert [r.text for r in ask(spec_of(server), clock)] == ["about hi"]


def test_a_pause_of_a_year_ends_the_work(server: Server, clock: Clock):
    server.script = lambda body, number: Said(429, {}, {"Retry-After": str(365 * 86400)})
    with pytest.raises(DraftbenchError, match="365 days"):
        ask(spec_of(server), clock)
    assert clock.slept == []


@pytest.mark.slow
def test_the_clock_covers_the_last_byte_of_the_body(server: Server, clock: Clock):
    raw = json.dumps(reply("slow")).encode()
    server.script = lambda body, number: Said(body=raw, byte_wait_s=0.1)
    began = time.monotonic()
    with pytest.raises(Unanswered, match=r"no answer within 0\.5 s"):
        ask(spec_of(server, attempts=1, timeout_s=0.5), clock)
    assert time.monotonic() - began < 0.1 * len(raw)


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": ' + b"[" * 100_000,
        b'{"choices": [], "n": ' + b"9" * 4400 + b"}",
        b'{"choices": [{"message": {"content": "a", "content": "b"}, "finish_reason": "stop"}]}',
        b'{"choices": [{"message": {"content": "\xff"}, "finish_reason": "stop"}]}',
    ],
)
def test_json_that_is_none_is_asked_for_again(server: Server, clock: Clock, body: bytes):
    server.script = first(Said(body=body))
    assert ask(spec_of(server), clock)[0].text == "about hi"
