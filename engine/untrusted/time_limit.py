"""A time limit for Python code that may not end, in any thread.

A signal reaches only the main thread, and the workbench's pages run in others. The interpreter can raise an exception
in any thread; it does so between two of the thread's instructions, so a single call into C is not interrupted.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class OutOfTime(Exception):
    """Raised inside a block that ran longer than its time limit."""


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
            _raise_in(thread, None)  # an exception that was requested and not yet raised must not come later


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(exception) if exception else None
    )
