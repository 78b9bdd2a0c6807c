"""Many prompts asked of a server at once: what comes is kept, and a server that is gone is not asked for them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from engine.served.client import ChatServer
from engine.served.replies import Reply, Unanswered

_POLL_S = 0.2  # how soon a wish to stop is seen
_IN_VAIN_IN_A_ROW = 3  # prompts asked in vain, and none answered between: the server is gone, not the prompt bad
_REFUSED_AT_FIRST = 20  # refused before any is answered: the settings are at fault, and each may have been paid for


async def fetch(
    server: ChatServer,
    bodies: Sequence[Mapping[str, Any]],
    keep: Callable[[int, Reply], None],
    stop_if_asked: Callable[[], None],
    *,
    has_answered: bool = False,
) -> list[tuple[int, str]]:
    """Ask everything, `spec.concurrency` requests at once; returns who got no answer, and why.

    `keep` gets each reply with its index as it comes, in no order; an Unanswered that it raises
    counts as no answer. A few prompts asked in vain in a row end it, and so do many that are
    refused before any is answered, unless the server `has_answered` earlier: no new requests
    begin then, and those under way are waited for and kept. Other errors, of `keep` or of a
    request, are raised once everything that has come is kept. `stop_if_asked` may raise between
    two replies; requests under way are given up then.
    """
    waiting, tally = iter(range(len(bodies))), _Tally(keep, server.without_key, has_answered)
    going: dict[asyncio.Task[Reply], int] = {}
    try:
        while True:
            if tally.is_hopeless:
                _cancel(task for task in going if task not in server.under_way)  # they only wait to ask once more
            else:
                for index in islice(waiting, server.spec.concurrency - len(going)):
                    going[asyncio.create_task(server.answer(bodies[index]))] = index
            if not going:
                return tally.failed
            done, _ = await asyncio.wait(going, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            tally.take({task: going.pop(task) for task in done})
            stop_if_asked()
    finally:
        _cancel(going)
        await asyncio.gather(*going, return_exceptions=True)


@dataclass
class _Tally:
    """What has come so far, and whether it is worth asking on."""

    keep: Callable[[int, Reply], None]
    without_key: Callable[[str], str]
    has_answered: bool
    failed: list[tuple[int, str]] = field(default_factory=list)
    _in_vain: int = 0  # in a row

    @property
    def is_hopeless(self) -> bool:
        refused_all = not self.has_answered and len(self.failed) >= _REFUSED_AT_FIRST
        return refused_all or self._in_vain >= _IN_VAIN_IN_A_ROW

    def take(self, done: Mapping[asyncio.Task[Reply], int]) -> None:
        """Keep what is an answer, note what is none, then raise the first error that is neither, if there is one."""
        errors: list[Exception] = []
        for task in sorted(done, key=lambda task: task.cancelled() or task.exception() is None):  # answers last
            if task.cancelled():
                continue
            try:
                self.keep(done[task], task.result())
                self.has_answered, self._in_vain = True, 0
            except Unanswered as why:
                self.failed.append((done[task], self.without_key(str(why))))
                self._in_vain += why.in_vain
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _cancel(tasks: Iterable[asyncio.Task[Reply]]) -> None:
    for task in tasks:
        task.cancel()
