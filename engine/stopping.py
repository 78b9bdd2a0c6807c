"""Ending long work soon after somebody asked for it: at the next safe point, or wherever it is after some seconds.

A safe point may be a minute away: in one long forward, while weights are read, in a download. So a thread waits beside
the work. `SOON_S` after the signal it interrupts the work like a second Ctrl-C, and `AT_ONCE_S` after it, where even
that was not heard because the work is inside one call of a library, it writes the last words and ends the process. All
that is kept on disk is replaced atomically or appended, so no more is lost than by `kill -9`: what was not yet kept.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SOON_S, AT_ONCE_S = 2.0, 4.0
STOPPED = 130  # exit status, as of Ctrl-C
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPING = b"\nstopping at the next safe point, or in a few seconds; once more stops at once\n"
_keeping = 0  # of the process, as signals are


class Stop:
    """Whether the work was asked to stop; called, it says so. A second signal interrupts."""

    def __init__(self) -> None:
        self.asked = self.leaving = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(OSError):
            os.write(2, _STOPPING)  # not print: the signal may have come in the middle of one


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Within it finished work is written, which a stop waits for, however long the disk takes."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1


@contextlib.contextmanager
def stop_on_signals(last_words: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Within it, SIGINT and SIGTERM ask the work to stop; a second one interrupts, as do the seconds that pass.

    last_words: what to write where the process has to be ended in the middle of a call; from another thread.
    """
    stop = Stop()
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = {number: signal.signal(number, stop.ask) for number in _SIGNALS}
    # Python runs a handler between two of its own instructions; the byte comes at once, whatever call goes on.
    others = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    beside = threading.Thread(target=_end_in_time, args=(heard, stop, last_words), daemon=True, name="stop")
    beside.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(others)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)  # ends the thread
        beside.join()
        os.close(heard)


def _end_in_time(heard: int, stop: Stop, last_words: Callable[[], None]) -> None:
    """Wait for a signal, then see to it that the process ends; returns when the work has ended."""
    while not set(received := os.read(heard, 64)) & set(_SIGNALS):
        if not received:
            return
    began = time.monotonic()
    if _over(heard, began + SOON_S):
        return
    if not stop.leaving:
        _thread.interrupt_main(signal.SIGINT)
    if _over(heard, began + AT_ONCE_S):
        return
    with contextlib.suppress(Exception):
        last_words()
    os._exit(STOPPED)


def _over(heard: int, until: float) -> bool:
    """Whether the work has ended by then; waits longer while finished work is being written."""
    while True:
        left = until - time.monotonic()
        if left <= 0 and not _keeping:
            return False
        if select.select([heard], [], [], max(0.05, left))[0] and not os.read(heard, 64):
            return True
