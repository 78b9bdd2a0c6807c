"""Writing in a thread of its own, so that the target does not wait for the disk."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

_WAITING = 32  # items: enough to even out a slow disk; each may hold megabytes of signal

Item = TypeVar("Item")


class WriterThread(Generic[Item]):
    """Calls `write` with each item that is put, in order, in a thread.

    On leaving its `with` block everything that was put is written, also when the block raises: what is finished is
    never lost. An error of `write` ends the writing; it is raised by the next `put` or `written`, or on leaving the
    block.
    """

    def __init__(self, write: Callable[[Item], None], waiting: int = _WAITING) -> None:
        """`waiting`: items that may wait; `put` blocks beyond that."""
        self._write = write
        self._queue: queue.Queue[Item | None] = queue.Queue(waiting)
        self._written: deque[Item] = deque()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="capture writer", daemon=True)

    def __enter__(self) -> WriterThread[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, item: Item) -> None:
        """Have an item written after those before it."""
        self._raise()
        self._queue.put(item)

    def written(self) -> list[Item]:
        """The items that were written since the last call."""
        self._raise()
        return [self._written.popleft() for _ in range(len(self._written))]

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:  # after one, items are only taken, so that `put` never waits for ever
                try:
                    self._write(item)
                    self._written.append(item)
                except Exception as error:
                    self._error = error
