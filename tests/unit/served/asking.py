"""What the tests of the client share: a clock that only sleeping moves, requests, and bodies of answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import SecretStr

from engine.config.schema import ServerSpec
from engine.errors import Cancelled, DraftbenchError
from engine.served.client import ChatServer, read_key
from engine.served.replies import Reply
from engine.served.request_rate import RateLimiter
from engine.served.requests import request_all
from tests.chat_server import MODEL, Said, Server, good

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


def prompt_number(body: Mapping[str, Any]) -> int:
    return int(body["messages"][-1]["content"].removeprefix("p"))


def key_of(value: str | None, **changes: Any) -> SecretStr | None:
    spec = ServerSpec(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_env": "MY_KEY", **changes})
    return read_key(spec, {} if value is None else {"MY_KEY": value})


def answer_of(said: Any, server: Server, clock: Clock, **changes: Any) -> Reply:
    server.script = lambda body, number: Said(body=said)
    return ask(spec_of(server, attempts=2, **changes), clock)[0]


def message_of(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


def counted(said: dict[str, Any], tokens: int, **more: Any) -> dict[str, Any]:
    return {**said, "usage": {"completion_tokens": tokens, **more}}
