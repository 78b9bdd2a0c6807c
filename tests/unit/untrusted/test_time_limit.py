"""Code that does not end is stopped in any thread, and code that ends in time is left alone."""

from __future__ import annotations

import threading
import time

import pytest

from engine.untrusted.time_limit import OutOfTime, time_limit


def endless() -> None:
    with time_limit(0.2):
        while True:
            pass


def test_an_endless_loop_is_stopped():
    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"longer than 0\.2 s"):
        endless()
    assert time.monotonic() - began < 60


def test_it_is_stopped_outside_the_main_thread_too():
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            endless()
        except OutOfTime as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert len(raised) == 1


def test_a_limit_that_was_not_reached_leaves_nothing_behind():
    before = threading.active_count()
    for _ in range(200):
        with time_limit(60):
            pass
    for _ in range(1000):  # threads end a little after they were cancelled
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_nothing_is_raised_after_a_block_that_ended_in_time():
    with time_limit(1.0):
        pass
    time.sleep(1.2)
    assert sum(range(1000)) == 499500
