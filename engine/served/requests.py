"""Many requests to a server at once: replies are kept as they come, and a server that is gone is given up early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from engine.served.replies import Reply, Unanswered

_POLL_S = 0.2  # how often a request to stop is looked for
_MAX_EXHAUSTED = 3  # prompts in a row without an answer after all attempts: the server is gone, the prompts are not bad
_MAX_REFUSED = 20  # refused before any is answered: the settings are at fault, and each request may cost money


class Answerer(Protocol):
    """A server, or several that share the load."""

    @property
    def in_flight(self) -> set[asyncio.Task[Any] | None]:
        """The tasks whose request is at a server now, without those that wait for another attempt."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests in flight at once."""
        ...

    async def answer(self, body: Mapping[str, Any]) -> Reply: ...

    def without_key(self, text: str) -> str: ...


async def request_all(
    server: Answerer,
    bodies: Sequence[Mapping[str, Any]],
    keep: Callable[[int, Reply], None],
    stop_if_asked: Callable[[], None],
    *,
    has_answered: bool = False,
) -> list[tuple[int, str]]:
    """Send all requests, `concurrency` at a time; return the index of each prompt without an answer, and why.

    `keep` receives each reply with its index as it comes, in any order; an Unanswered that it raises counts as no
    answer. A few prompts in a row whose attempts are exhausted end the work, and so do many that are refused before
    any is answered, unless the server `has_answered` earlier: then no new requests start, and those in flight are
    awaited and kept. Other errors, from `keep` or a request, are raised once every reply that has come is kept.
    `stop_if_asked` may raise between two replies; requests in flight are cancelled then.
    """
    waiting, tally = iter(range(len(bodies))), _Tally(keep, server.without_key, has_answered)
    running: dict[asyncio.Task[Reply], int] = {}
    try:
        while True:
            if tally.is_hopeless:
                _cancel(task for task in running if task not in server.in_flight)  # these only wait for another attempt
            else:
                for index in islice(waiting, server.concurrency - len(running)):
                    running[asyncio.create_task(server.answer(bodies[index]))] = index
            if not running:
                return tally.failed
            done, _ = await asyncio.wait(running, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            tally.add({task: running.pop(task) for task in done})
            stop_if_asked()
    finally:
        _cancel(running)
        await asyncio.gather(*running, return_exceptions=True)


@dataclass
class _Tally:
    """The results so far, and whether more requests are worth sending."""

    keep: Callable[[int, Reply], None]
    without_key: Callable[[str], str]
    has_answered: bool
    failed: list[tuple[int, str]] = field(default_factory=list)
    _exhausted: int = 0  # in a row

    @property
    def is_hopeless(self) -> bool:
        refused_all = not self.has_answered and len(self.failed) >= _MAX_REFUSED
        return refused_all or self._exhausted >= _MAX_EXHAUSTED

    def add(self, done: Mapping[asyncio.Task[Reply], int]) -> None:
        """Keep the answers, note the prompts without one, then raise the first other error, if there is one."""
        errors: list[Exception] = []
        for task in sorted(done, key=lambda task: task.cancelled() or task.exception() is None):  # answers last
            if task.cancelled():
                continue
            try:
                self.keep(done[task], task.result())
                self.has_answered, self._exhausted = True, 0
            except Unanswered as why:
                self.failed.append((done[task], self.without_key(str(why))))
                self._exhausted += why.exhausted
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _cancel(tasks: Iterable[asyncio.Task[Reply]]) -> None:
    for task in tasks:
        task.cancel()
