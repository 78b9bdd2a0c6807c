"""How fast requests may begin."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from engine.served.request_rate import RateLimiter
from tests.chat_server import Said, Server, good
from tests.unit.served.asking import (
    Clock,
    ask,
    spec_of,
)


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
