"""How fast requests may begin: so many a minute, and not before a server that is busy asked for."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_MINUTE_S = 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0  # between two attempts of a request
_FIRST_PAUSE_S = 4.0  # of all requests; doubled five times it outlasts a limit that counts by the minute
_SPREAD_S = 2.0  # within which requests begin again after a pause


@dataclass
class Pace:
    """One for all requests to a server. `clock`, `sleep` and `rng` are arguments so that a test needs no minute.

    At most `per_minute` requests (None: no limit) begin in any 60 seconds, repeated ones included.
    """

    per_minute: int | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    _begun: deque[float] = field(default_factory=deque)
    _not_before: float = float("-inf")
    _paused_s: float = 0.0  # the last pause whose length the server did not name

    async def turn(self) -> None:
        """Returns when a request may begin, and counts it as begun."""
        while (wait_s := self._wait_s()) > 0:
            paused = self._not_before > self.clock()
            await self.sleep(wait_s + (self.rng.uniform(0.0, _SPREAD_S) if paused else 0.0))
        self._begun.append(self.clock())

    def pause(self, seconds: float) -> None:
        """No request begins for so long: a busy server means all of them."""
        self._not_before = max(self._not_before, self.clock() + seconds)

    def pause_longer(self) -> None:
        """As `pause`, where the server names no time: twice as long as the last such pause, or a few seconds if
        none ended within the last minute. Does nothing during a pause: what fails then had begun before it."""
        now = self.clock()
        if now < self._not_before:
            return
        ended_long_ago = now > self._not_before + _MINUTE_S
        self._paused_s = min(_LONGEST_WAIT_S, max(_FIRST_PAUSE_S, 0.0 if ended_long_ago else 2 * self._paused_s))
        self.pause(self._paused_s)

    async def back_off(self, attempt: int) -> None:
        """Wait after the failed attempt number `attempt` (from 1): doubled each time, and at random up to half less,
        so that requests which failed together do not come back together."""
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1))
        await self.sleep(longest * self.rng.uniform(0.5, 1.0))

    def _wait_s(self) -> float:
        now = self.clock()
        while self._begun and self._begun[0] <= now - _MINUTE_S:
            self._begun.popleft()
        full = self.per_minute is not None and len(self._begun) >= self.per_minute
        until = self._begun[0] + _MINUTE_S if full else now
        return max(until, self._not_before) - now
