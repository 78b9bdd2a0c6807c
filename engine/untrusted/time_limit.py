"""A time limit for Python code that may not end, in any thread.

A signal reaches only the main thread, and the workbench's pages run in others. The interpreter can raise an exception
in any thread; it does so between two of the thread's instructions, so a single call into C is not interrupted.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import os
import threading
import time
from collections.abc import Iterator


class OutOfTime(Exception):
    """Raised inside a block that ran longer than its time limit."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block once it has run for that long."""
    block = _Block(threading.get_ident())
    _watchdog.watch(block, time.monotonic() + seconds)
    try:
        yield
    except OutOfTime:
        raise OutOfTime(f"it ran longer than {seconds:g} s") from None
    finally:
        block.end()


class _Block:
    """A block of code under a limit, in one thread."""

    def __init__(self, thread: int) -> None:
        self._thread, self._lock, self.over = thread, threading.Lock(), False
        self._stopped = False

    def stop(self) -> None:
        """Raise `OutOfTime` in it, unless it has ended."""
        with self._lock:
            if not self.over:
                self._stopped = True
                _raise_in(self._thread, OutOfTime)

    def end(self) -> None:
        """Note that it has ended: an exception that was requested and not yet raised must not come later."""
        with self._lock:
            self.over = True
            if self._stopped:  # else the interpreter would look for an exception that never comes, at every step
                _raise_in(self._thread, None)


class _Watchdog:
    """One thread that stops all blocks of the process when their time is up.

    A thread for each block would take longer to start than most blocks take to run: a template is rendered thousands
    of times a minute. Blocks that have ended stay in the heap until their time would have been up.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, int, _Block]] = []
        self._numbers = itertools.count()  # of two that are due at once, the first one first
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, block: _Block, until: float) -> None:
        with self._changed:
            entry = (until, next(self._numbers), block)
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="time limits", daemon=True)
                self._thread.start()
            elif self._due[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._due and self._due[0][2].over:
                    heapq.heappop(self._due)
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                _, _, block = heapq.heappop(self._due)
            block.stop()


_watchdog = _Watchdog()


def _renew() -> None:
    """A forked process has no other thread than the one that forked."""
    global _watchdog
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_renew)


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(exception) if exception else None
    )
