"""How fast requests may start: at most so many per minute, and not while a busy server asks for a pause."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_MINUTE_S = 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0  # between two attempts of a request
_FIRST_PAUSE_S = 4.0  # of all requests; doubled five times it outlasts a limit per minute
_SPREAD_S = 2.0  # over which requests start again after a pause


@dataclass
class RateLimiter:
    """The rate limit of all requests to a server. `clock`, `sleep` and `rng` are arguments so that tests need not wait.

    At most `per_minute` requests (None: no limit) start in any 60 seconds, retries included.
    """

    per_minute: int | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    _started: deque[float] = field(default_factory=deque)
    _not_before: float = float("-inf")
    _paused_s: float = 0.0  # the last pause whose length the server did not name

    @property
    def is_paused(self) -> bool:
        """Whether a request would have to wait now."""
        return self._wait_s() > 0

    def another(self) -> RateLimiter:
        """A limiter of the same rate and clock for another server."""
        return RateLimiter(self.per_minute, self.clock, self.sleep, self.rng)

    async def turn(self) -> None:
        """Return once a request may start, and count it as started."""
        while (wait_s := self._wait_s()) > 0:
            paused = self._not_before > self.clock()
            await self.sleep(wait_s + (self.rng.uniform(0.0, _SPREAD_S) if paused else 0.0))
        self._started.append(self.clock())

    def pause(self, seconds: float) -> None:
        """Let no request start for so long: a server that is busy is busy for all of them."""
        self._not_before = max(self._not_before, self.clock() + seconds)

    def pause_longer(self) -> None:
        """Pause where the server names no time: twice as long as the last such pause, or a few seconds if none ended
        within the last minute. Does nothing during a pause: a request that fails then had started before it."""
        now = self.clock()
        if now < self._not_before:
            return
        ended_long_ago = now > self._not_before + _MINUTE_S
        self._paused_s = min(_LONGEST_WAIT_S, max(_FIRST_PAUSE_S, 0.0 if ended_long_ago else 2 * self._paused_s))
        self.pause(self._paused_s)

    async def back_off(self, attempt: int) -> None:
        """Wait after failed attempt number `attempt` (from 1): twice as long each time, and at random up to half less,
        so that requests which failed together are not repeated together."""
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1))
        await self.sleep(longest * self.rng.uniform(0.5, 1.0))

    def _wait_s(self) -> float:
        now = self.clock()
        while self._started and self._started[0] <= now - _MINUTE_S:
            self._started.popleft()
        full = self.per_minute is not None and len(self._started) >= self.per_minute
        until = self._started[0] + _MINUTE_S if full else now
        return max(until, self._not_before) - now
