"""A time limit for Python code that may not end, in whatever thread it runs.

A signal reaches the main thread alone, and the workbench's pages run in others. The interpreter can be asked to raise an
exception in any thread; it does so between two of the thread's instructions, so a single call into C is not cut short.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class OutOfTime(Exception):
    """Raised inside the block whose time is over."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block once it has run for that long."""
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not over:
                _raise_in(thread, OutOfTime)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except OutOfTime:
        raise OutOfTime(f"it ran longer than {seconds:g} s") from None
    finally:
        timer.cancel()
        with lock:
            over = True
            _raise_in(thread, None)  # what was asked for and has not been raised yet must not come later


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(exception) if exception else None
    )
