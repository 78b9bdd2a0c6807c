"""Several servers of one model that share the load.

A request goes to the server that is least busy. One that does not answer is left out for a while, longer each time, and
the request goes to another; after the pause a single request tries it again. Where none answers, requests wait and fail
as those to a single server do. A server is checked before its first answer and after each absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr

from engine.config.schema import ServerSpec
from engine.served.client import ChatServer, without_key
from engine.served.replies import Reply, Retry, Unanswered
from engine.served.request_rate import RateLimiter
from engine.served.server_checks import ServerChecks

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


@dataclass
class _Member:
    """A server of the pool. `back_at`: when it is tried again; `pause_s`: the last pause, 0 while it answers."""

    server: ChatServer
    busy: int = 0
    back_at: float = float("-inf")
    pause_s: float = 0.0

    @property
    def url(self) -> str:
        return self.server.spec.base_url

    def is_open(self, now: float) -> bool:
        """Whether it takes a request: one at a time while it is on trial after an absence."""
        return now >= self.back_at and not (self.pause_s and self.busy)


class ServerPool:
    """The answers of several servers, as those of one (`engine.served.client.ChatServer`). Use as `async with`."""

    def __init__(
        self,
        spec: ServerSpec,
        key: SecretStr | None,
        limiter: RateLimiter | None,
        note: Callable[[str], None],
        checks: ServerChecks,
    ) -> None:
        self.spec, self._key, self._note, self._checks = spec, key, note, checks
        self._limiter = limiter or RateLimiter(spec.requests_per_minute)
        self._members = [_Member(ChatServer(one, key, self._limiter.another(), note)) for one in spec.each]
        self._comparing = asyncio.Lock()  # the first server that is checked is what the others are compared with

    async def __aenter__(self) -> ServerPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self._members:
            await member.server.close()

    @property
    def in_flight(self) -> set[asyncio.Task[Any] | None]:
        """The tasks whose request is at a server now."""
        return set().union(*(member.server.in_flight for member in self._members))

    @property
    def concurrency(self) -> int:
        """Requests in flight at once, at all servers together."""
        return self.spec.concurrency * len(self._members)

    @property
    def samples_its_own_way(self) -> bool:
        """Whether one of them answers, but refuses the fields that keep its distribution whole."""
        return any(member.server.samples_its_own_way for member in self._members)

    def without_key(self, text: str) -> str:
        """The text with the key taken out, in case a server repeated it."""
        return without_key(text, self._key)

    async def answer(self, body: Mapping[str, Any]) -> Reply:
        """The reply of one server. Raises as `ChatServer.answer`; an attempt is lost only where none is left."""
        failures, cause = 0, ""
        while failures < self.spec.attempts:
            member = self._next()
            try:
                reply = await self._attempt(member, body)
            except Retry as error:
                cause = f"{member.url}: {error}"
                if error.gone:
                    self._leave_out(member, str(error))
                if error.gone and any(one.is_open(self._now) for one in self._members):
                    continue
                failures += 1
                if failures < self.spec.attempts:
                    await self._limiter.back_off(failures)
            else:
                return replace(reply, server=member.url)
        raise Unanswered(f"{cause} ({self.spec.attempts} attempts)", exhausted=True)

    @property
    def _now(self) -> float:
        return self._limiter.clock()

    def _next(self) -> _Member:
        """The least busy server that takes requests; where none does, the one that is tried again first."""
        open_ones = [member for member in self._members if member.is_open(self._now)]
        if not open_ones:
            return min(self._members, key=lambda member: (member.back_at, member.busy))
        return min(open_ones, key=lambda member: (member.server.limiter.is_paused, member.busy))

    async def _attempt(self, member: _Member, body: Mapping[str, Any]) -> Reply:
        """One attempt at a server, checked before if it must be. Raises as `ChatServer.attempt`."""
        member.busy += 1
        try:
            if not self._checks.is_checked(member.url):
                async with self._comparing:
                    await self._checks.check(member.url, member.server.attempt)
            reply = await member.server.attempt(body)
        finally:
            member.busy -= 1
        if member.pause_s:
            self._note(f"{member.url} answers again")
        member.pause_s, member.back_at = 0.0, float("-inf")
        return reply

    def _leave_out(self, member: _Member, why: str) -> None:
        """Send the server no requests for a while, longer after each failure in a row. Says so the first time."""
        if self._now < member.back_at:
            return  # a request that was there when it went
        if not member.pause_s:
            others = sum(one is not member and one.is_open(self._now) for one in self._members)
            self._note(
                f"{member.url} does not answer ({why}): it is left out and tried again later; "
                f"{others} of {len(self._members)} servers continue"
            )
        member.pause_s = min(_LONGEST_PAUSE_S, 2 * member.pause_s or _FIRST_PAUSE_S)
        member.back_at = self._now + member.pause_s
        self._checks.forget(member.url)
