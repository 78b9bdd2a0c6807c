"""A server that answers 429, 500, half a body or nothing: asked again, then a clear error; the key is never shown."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr

from engine.config.reading import parse_section
from engine.config.schema import ServerSpec
from engine.errors import Cancelled, DraftbenchError
from engine.served.client import ChatServer, listed_models, read_key
from engine.served.finish_reasons import ending_of
from engine.served.replies import Reply, Unanswered, read_reply
from engine.served.request_rate import RateLimiter
from engine.served.requests import request_all
from tests.chat_server import MODEL, Said, Server, chat_server, good, reply

KEY = "sk-very/secret-0123456789"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spec_of(server: Server, **changes: Any) -> ServerSpec:
    return ServerSpec(**{"base_url": server.base_url, "model": MODEL, "timeout_s": 5.0, **changes})


def ask(spec: ServerSpec, clock: Clock, bodies: int = 1, key: str | None = None) -> list[Reply]:
    """The replies to some requests, one after the other."""

    async def work() -> list[Reply]:
        limiter = RateLimiter(spec.requests_per_minute, clock, clock.sleep, random.Random(0))
        async with ChatServer(spec, SecretStr(key) if key else None, limiter) as client:
            return [await client.answer(BODY) for _ in range(bodies)]

    return asyncio.run(work())


def first(*said: Said) -> Callable[[dict[str, Any], int], Said]:
    """A script that says these, then behaves."""
    return lambda body, number: said[number] if number < len(said) else good(body, number)


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


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_again(server: Server, clock: Clock, fault: str):
    server.script = first(PASSING[fault], PASSING[fault])
    assert [r.text for r in ask(spec_of(server), clock)] == ["about hi"]
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", PASSING)
def test_what_does_not_pass_ends_in_words_after_so_many_attempts(server: Server, clock: Clock, fault: str):
    server.script = lambda body, number: PASSING[fault]
    with pytest.raises(Unanswered, match=r"\(4 attempts\)"):
        ask(spec_of(server, attempts=4), clock)
    assert len(server.requests) == 4


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


def test_pauses_of_no_named_length_double_until_a_calm_minute(clock: Clock):
    limiter = RateLimiter(None, clock, clock.sleep, random.Random(0))

    def waits() -> float:
        limiter.pause_longer()
        limiter.pause_longer()  # of a request that had begun before the pause
        begun = clock.now
        asyncio.run(limiter.turn())
        return clock.now - begun

    for shortest in (4, 8, 16, 32, 60, 60):
        assert shortest <= waits() <= shortest + 2
    clock.now += 60
    assert 4 <= waits() <= 6


def test_requests_do_not_begin_all_at_one_instant_after_a_pause(clock: Clock):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        until = clock.now + seconds
        await asyncio.sleep(0)
        clock.now = max(clock.now, until)

    async def work() -> None:
        limiter = RateLimiter(None, clock, sleep, random.Random(0))
        limiter.pause(10)
        await asyncio.gather(*(limiter.turn() for _ in range(5)))

    asyncio.run(work())
    assert len(set(waits)) == 5
    assert all(10 <= each <= 12 for each in waits)


def test_no_more_than_so_many_begin_in_any_minute(server: Server, clock: Clock):
    times: list[float] = []

    def note(body: dict[str, Any], number: int) -> Said:
        times.append(clock.now)
        return Said(500, {}) if number == 2 else good(body, number)  # what is asked again counts too

    server.script = note
    ask(spec_of(server, requests_per_minute=4), clock, bodies=11)
    assert len(times) == 12
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[4:], strict=False))
    assert times[-1] - times[0] < 125


def many(
    server: Server,
    clock: Clock,
    count: int,
    stop: Callable[[], None] = lambda: None,
    has_answered: bool = False,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    **changes: Any,
) -> tuple[dict[int, str], list[tuple[int, str]]]:
    """What was kept and who got no answer, of `count` prompts p0, p1 ..."""
    kept: dict[int, str] = {}
    spec = spec_of(server, **changes)

    async def work() -> list[tuple[int, str]]:
        limiter = RateLimiter(spec.requests_per_minute, clock, sleep or clock.sleep, random.Random(0))
        async with ChatServer(spec, None, limiter) as client:
            bodies = [{"model": MODEL, "messages": [{"role": "user", "content": f"p{i}"}]} for i in range(count)]
            return await request_all(
                client, bodies, lambda i, r: kept.__setitem__(i, r.text), stop, has_answered=has_answered
            )

    try:
        return kept, asyncio.run(work())
    except (Cancelled, DraftbenchError) as error:
        error.kept = kept  # type: ignore[union-attr]
        raise


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


def prompt_number(body: Mapping[str, Any]) -> int:
    return int(body["messages"][-1]["content"].removeprefix("p"))


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


def test_a_wrong_model_names_those_there_are(server: Server, clock: Clock):
    server.script = lambda body, number: Said(404, {"error": "no such model"})
    server.models = ["served-modal", "other"]
    with pytest.raises(DraftbenchError) as error:
        ask(spec_of(server), clock)
    assert "did you mean 'served-modal'?" in error.value.fix
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_at_once_and_is_not_shown(server: Server, clock: Clock, status: int):
    server.script = lambda body, number: Said(status, {"error": f"bad key {KEY}!"})
    with pytest.raises(DraftbenchError) as error:
        ask(spec_of(server, key_env="MY_KEY"), clock, key=KEY)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert len(server.requests) == 1
    assert "MY_KEY" in error.value.fix
    assert "bad key [key]!" in str(error.value)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("echo", [f"<{KEY}>", KEY * 30, KEY.replace("/", "\\/")])
def test_a_server_that_echoes_the_key_does_not_get_it_shown(server: Server, clock: Clock, echo: str):
    server.script = lambda body, number: Said(500, echo.encode())
    with pytest.raises(Unanswered) as error:
        ask(spec_of(server, attempts=1), clock, key=KEY)
    assert "secret" not in str(error.value)
    assert "[key]" in str(error.value)


def test_a_key_is_not_sent_on_to_another_address(server: Server, clock: Clock):
    with chat_server() as other:
        server.script = lambda body, number: Said(307, b"", {"Location": other.base_url + "/chat/completions"})
        with pytest.raises(DraftbenchError, match="does not serve this API") as error:
            ask(spec_of(server), clock, key=KEY)
        assert other.requests == []
    assert "redirects to http://127" in error.value.why


def test_fields_that_a_strict_server_does_not_know_are_left_out_from_then_on(server: Server, clock: Clock):
    def strict(body: dict[str, Any], number: int) -> Said:
        return Said(422, {"detail": "unexpected fields"}) if "return_token_ids" in body else good(body, number)

    server.script = strict
    assert len(ask(spec_of(server), clock, bodies=3)) == 3
    assert ["return_token_ids" in body for body in server.requests] == [True, False, False, False]
    assert {body.get("top_k") for body in server.requests[1:]} == {0}


def test_the_whole_distribution_is_asked_for_whatever_a_server_does_by_itself(server: Server, clock: Clock):
    ask(spec_of(server), clock)
    whole = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert whole.items() <= server.requests[0].items()

    def bare(body: dict[str, Any], number: int) -> Said:
        return Said(400, {"error": "unknown field"}) if "min_p" in body else good(body, number)

    server.requests.clear()
    server.script = bare
    ask(spec_of(server), clock, bodies=2)
    assert [body.get("top_k") for body in server.requests] == [-1, 0, None, None]


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


def test_parts_of_an_odd_kind_have_no_text(server: Server, clock: Clock):
    parts = [{"text": "a"}, {"text": None}, {"text": 3}, "b", None, {"type": "image"}, {"text": "c"}]
    response = reply()
    response["choices"][0]["message"]["content"] = parts
    server.script = lambda body, number: Said(body=response)
    assert ask(spec_of(server), clock)[0].text == "ac"


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


def key_of(value: str | None, **changes: Any) -> SecretStr | None:
    spec = ServerSpec(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_env": "MY_KEY", **changes})
    return read_key(spec, {} if value is None else {"MY_KEY": value})


def test_the_key_comes_from_the_environment_and_hides_itself():
    key = key_of(f" {KEY}\n")
    assert key is not None
    assert key.get_secret_value() == KEY
    assert "secret-" not in repr(key)
    assert key_of(None, key_env=None) is None


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY}\nX-Other: 1", f"{KEY} ü"])
def test_a_missing_or_impossible_key_is_refused_without_showing_it(value: str | None):
    with pytest.raises(DraftbenchError, match="MY_KEY") as error:
        key_of(value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://10.0.0.5:8000/v1", "http://example.org/v1", "http://127.0.0.1.example.org/v1"])
def test_a_key_does_not_travel_unencrypted(url: str):
    with pytest.raises(DraftbenchError, match="unencrypted"):
        key_of(KEY, base_url=url)
    assert key_of(KEY, base_url=url, key_env=None) is None


@pytest.mark.parametrize("url", ["https://example.org/v1", "http://localhost:1/v1", "http://[::1]:1/v1"])
def test_a_key_travels_encrypted_or_not_at_all(url: str):
    assert key_of(KEY, base_url=url) is not None


@pytest.mark.parametrize("url", [f"https://me:{KEY}@example.org/v1", f"https://example.org/v1?key={KEY}"])
def test_an_address_with_a_key_in_it_is_refused_without_showing_it(url: str):
    with pytest.raises(DraftbenchError, match="key_env") as error:
        parse_section(ServerSpec, {"base_url": url, "model": "m"})
    assert "secret" not in str(error.value)


def test_a_key_in_the_place_of_its_variables_name_is_not_shown():
    with pytest.raises(DraftbenchError, match="key_env") as error:
        parse_section(ServerSpec, {"base_url": "https://example.org/v1", "model": "m", "key_env": KEY})
    assert "secret" not in str(error.value)


def test_models_are_listed_for_a_look_before(server: Server):
    assert listed_models(spec_of(server)) == [MODEL]


def test_a_look_at_a_server_that_is_not_there_says_so():
    with chat_server() as gone:
        spec = spec_of(gone)
    with pytest.raises(DraftbenchError, match="cannot be reached") as error:
        listed_models(spec, timeout_s=1)
    assert "start the server" in error.value.fix


def answer_of(said: Any, server: Server, clock: Clock, **changes: Any) -> Reply:
    server.script = lambda body, number: Said(body=said)
    return ask(spec_of(server, attempts=2, **changes), clock)[0]


def message_of(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


def counted(said: dict[str, Any], tokens: int, **more: Any) -> dict[str, Any]:
    return {**said, "usage": {"completion_tokens": tokens, **more}}


ABSENT = {
    "null": message_of(content=None),
    "null, counted": counted(message_of(content=None), 57),
    "no content": message_of(),
    "empty, but counted": counted(message_of(content=""), 57),
    "three letters of 57 tokens": counted(message_of(content="yes"), 57),
    "content of another kind": message_of(content={"text": "yes"}),
    "parts without text": message_of(content=[{"type": "image"}]),
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


def test_another_model_and_parts_without_text_are_counted(server: Server, clock: Clock):
    parts = [{"type": "text", "text": "yes"}, {"type": "image_url"}]
    result = answer_of({**message_of(content=parts), "model": "another"}, server, clock)
    assert result.text == "yes"
    assert result.noted == ("a part of the content, image_url", "answered as model 'another'")


def test_a_call_of_the_older_form_is_a_call(server: Server, clock: Clock):
    call = {"name": "add", "arguments": "{}"}
    result = answer_of(message_of(content=None, function_call=call), server, clock)
    assert result.tool_calls == [{"type": "function", "function": call}]


def test_a_pause_of_a_year_ends_the_work(server: Server, clock: Clock):
    server.script = lambda body, number: Said(429, {}, {"Retry-After": str(365 * 86400)})
    with pytest.raises(DraftbenchError, match="365 days"):
        ask(spec_of(server), clock)
    assert clock.slept == []


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


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "http://[::1", "http://", "http://127.0.0.1:x/v1"])
def test_an_address_that_is_none_is_said_so(url: str, clock: Clock):
    spec = ServerSpec(base_url=url, model="m")
    with pytest.raises(DraftbenchError, match="does not serve this API"):
        ask(spec, clock)
    with pytest.raises(DraftbenchError, match="does not serve this API"):
        listed_models(spec)
    with pytest.raises(DraftbenchError, match="does not serve this API"):
        key_of(KEY, base_url=url)


def test_a_look_at_a_server_does_not_follow_it_elsewhere(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with chat_server() as other:
        server.listing = Said(302, b"", {"Location": other.base_url + "/models"})
        with pytest.raises(DraftbenchError, match="does not serve this API") as error:
            listed_models(spec_of(server, key_env="MY_KEY"))
        assert other.looks == 0
    assert "redirects" in error.value.why
    server.listing = Said(body={"data": [{"id": f"m-{KEY}"}, {"id": "x" * 10**6}, {"id": 7}, 8]})
    assert listed_models(spec_of(server, key_env="MY_KEY")) == ["m-[key]"]
    server.listing = Said(body=b" " * 5_000_000)
    with pytest.raises(DraftbenchError, match="MB"):
        listed_models(spec_of(server))


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
