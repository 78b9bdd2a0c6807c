"""Many prompts at once: what is kept, who gets no answer, and when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from engine.errors import Cancelled
from engine.served.client import ChatServer
from engine.served.replies import Reply
from engine.served.requests import request_all
from tests.chat_server import Said, Server, good, reply
from tests.unit.served.asking import (
    Clock,
    many,
    prompt_number,
    spec_of,
)

pytestmark = pytest.mark.slow


def test_requests_run_at_once_and_no_more_than_asked_for(server: Server, clock: Clock):
    server.script = lambda body, number: Said(body=reply(body["messages"][-1]["content"]), wait_s=0.03)
    kept, failed = many(server, clock, 12, concurrency=3)
    assert kept == {i: f"p{i}" for i in range(12)}
    assert failed == []
    assert server.most_at_once == 3


def test_one_prompt_that_is_refused_does_not_hold_up_the_others(server: Server, clock: Clock):
    refuse = Said(400, {"error": "too long"})
    server.script = lambda body, number: refuse if body["messages"][-1]["content"] == "p2" else good(body, number)
    kept, failed = many(server, clock, 6, concurrency=1)
    assert sorted(kept) == [0, 1, 3, 4, 5]
    assert failed == [(2, 'status 400: {"error": "too long"} (not retried)')]


def test_prompts_that_are_refused_do_not_end_it(server: Server, clock: Clock):
    refuse = Said(400, {"error": "too long"})
    server.script = lambda body, number: refuse if prompt_number(body) < 5 else good(body, number)
    kept, failed = many(server, clock, 12, concurrency=4)
    assert sorted(kept) == list(range(5, 12))
    assert sorted(index for index, _ in failed) == list(range(5))


@pytest.mark.parametrize("refuse", [Said(400, {"error": "bad"}), Said(body=reply("I", "content_filter"))])
def test_a_server_that_refuses_everything_is_not_asked_for_every_prompt(server: Server, clock: Clock, refuse: Said):
    server.script = lambda body, number: refuse
    kept, failed = many(server, clock, 50, concurrency=1)
    assert not kept
    assert len(failed) == 20
    assert len(many(server, clock, 50, has_answered=True)[1]) == 50  # then it is the prompts


def test_answers_under_way_when_it_ends_are_kept(server: Server, clock: Clock):
    slow = Said(body=reply("paid for"), wait_s=0.5)
    server.script = lambda body, number: slow if prompt_number(body) == 3 else Said(500, {})
    kept, failed = many(server, clock, 4, concurrency=4, attempts=1)
    assert kept == {3: "paid for"}
    assert sorted(index for index, _ in failed) == [0, 1, 2]
    assert len(server.requests) == 4


def test_one_that_waits_to_ask_again_when_it_ends_does_not(server: Server, clock: Clock):
    server.script = lambda body, number: Said(500, {}, wait_s=0.6 if prompt_number(body) == 3 else 0)

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0 if len(server.requests) < 7 else 60)

    began = time.monotonic()
    kept, failed = many(server, clock, 4, sleep=sleep, concurrency=4, attempts=2)
    assert not kept
    assert sorted(index for index, _ in failed) == [0, 1, 2]
    assert len(server.requests) == 4 + 3
    assert time.monotonic() - began < 30


def test_what_came_with_an_answer_that_breaks_the_keeping_is_kept(server: Server):
    class AtOnce(ChatServer):
        async def answer(self, body: Mapping[str, Any]) -> Reply:
            return Reply(str(body["number"]), "stop")

    kept: list[str] = []

    def keep(index: int, answer: Reply) -> None:
        if index in (0, 2):
            raise ValueError(f"no room for {answer.text}")
        kept.append(answer.text)

    async def work() -> None:
        async with AtOnce(spec_of(server, concurrency=5), None) as client:
            await request_all(client, [{"number": i} for i in range(5)], keep, lambda: None)

    with pytest.raises(ValueError, match="no room for"):
        asyncio.run(work())
    assert sorted(kept) == ["1", "3", "4"]


def test_a_server_that_is_gone_is_not_asked_for_every_prompt(server: Server, clock: Clock):
    server.script = lambda body, number: good(body, number) if number < 4 else Said(500, {})
    kept, failed = many(server, clock, 50, concurrency=1, attempts=2)
    assert sorted(kept) == [0, 1, 2, 3]
    assert len(failed) == 3
    assert len(server.requests) == 4 + 3 * 2


def test_a_wish_to_stop_is_followed_while_a_request_hangs(server: Server, clock: Clock):
    server.script = lambda body, number: good(body, number) if number < 2 else Said(body=reply("late"), wait_s=3)
    asked: list[int] = []

    def stop() -> None:
        asked.append(1)
        if len(asked) > 4:
            raise Cancelled("capture")

    with pytest.raises(Cancelled) as stopped:
        many(server, clock, 4, stop, concurrency=1, timeout_s=30)
    assert sorted(stopped.value.kept) == [0, 1]  # type: ignore[attr-defined]


def test_a_refused_prompt_does_not_cost_the_others_their_fields(server: Server, clock: Clock):
    refuse = Said(400, {"error": "too long"})
    server.script = lambda body, number: refuse if prompt_number(body) in (0, 2) else good(body, number)
    kept, _ = many(server, clock, 4, concurrency=1)
    assert sorted(kept) == [1, 3]
    asked = [(prompt_number(body), "return_token_ids" in body) for body in server.requests]
    assert asked == [(0, True), (0, False), (0, False), (1, True), (2, True), (3, True)]


def test_the_models_are_looked_at_once_and_at_the_pace_of_requests(server: Server, clock: Clock):
    refuse = Said(400, {"error": "too long"})
    server.script = lambda body, number: refuse if prompt_number(body) < 4 else good(body, number)
    began = clock.now
    many(server, clock, 5, requests_per_minute=1, concurrency=1)
    assert server.looks == 1
    assert clock.now - began >= 60 * (len(server.requests) + server.looks - 1)
