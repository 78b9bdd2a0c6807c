"""Code that does not end is stopped in any thread, and code that ends in time is left alone."""

from __future__ import annotations

import threading
import time

import pytest

from engine.time_limit import OutOfTime, time_limit


def endless() -> None:
    with time_limit(0.2):
        while True:
            pass


def test_an_endless_loop_is_stopped():
    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"longer than 0\.2 s"):
        endless()
    assert time.monotonic() - began < 10


def test_it_is_stopped_outside_the_main_thread_too():
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            endless()
        except OutOfTime as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert len(raised) == 1


def test_a_limit_that_was_not_reached_leaves_nothing_behind():
    before = threading.active_count()
    for _ in range(200):
        with time_limit(0.05):
            pass
    time.sleep(0.2)
    assert threading.active_count() <= before
    assert sum(range(1000)) == 499500
