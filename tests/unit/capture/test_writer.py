"""The writing thread: everything that was put is written, in order, and errors reach the one who puts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import pytest

from engine.capture.writer import WriterThread


def put(write: Callable[[int], None], items: Iterable[int], then: BaseException | None = None) -> None:
    """Have items written, at most three waiting, and then raise."""
    with WriterThread(write, waiting=3) as writer:
        for item in items:
            writer.put(item)
        if then is not None:
            raise then


def test_items_are_written_in_order_and_each_is_reported_once():
    done: list[int] = []
    reported: list[int] = []
    with WriterThread(done.append, waiting=2) as writer:
        for item in range(50):
            writer.put(item)
            reported += writer.written()
    reported += writer.written()
    assert done == reported == list(range(50))


def test_nobody_waits_for_the_writing_until_the_queue_is_full():
    go_on = threading.Event()
    written: list[int] = []

    def slow(item: int) -> None:
        assert go_on.wait(10)
        written.append(item)

    with WriterThread(slow, waiting=3) as writer:
        for item in range(4):  # one in the thread's hands and three that wait
            writer.put(item)
        assert written == writer.written() == []
        go_on.set()
    assert written == writer.written() == [0, 1, 2, 3]


def test_what_was_put_is_written_also_when_the_work_is_interrupted():
    written: list[int] = []

    def slow(item: int) -> None:
        time.sleep(0.02)
        written.append(item)

    with pytest.raises(KeyboardInterrupt):
        put(slow, range(5), then=KeyboardInterrupt())
    assert written == [0, 1, 2, 3, 4]


def test_an_error_ends_the_writing_and_reaches_the_caller():
    written: list[int] = []

    def full_at_two(item: int) -> None:
        if item == 2:
            raise OSError(28, "No space left on device")
        written.append(item)

    with pytest.raises(OSError, match="No space"):
        put(full_at_two, range(1000))  # far more than may wait: it must not block for ever
    assert written == [0, 1]


def test_an_error_with_the_last_item_is_not_lost():
    def fail(item: int) -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        put(fail, [1])


def test_an_interruption_is_not_hidden_by_an_error_of_the_writing():
    def fail(item: int) -> None:
        raise OSError("broken")

    with pytest.raises(KeyboardInterrupt):
        put(fail, [1], then=KeyboardInterrupt())
