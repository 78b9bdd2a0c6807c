"""Code that does not end is stopped in any thread, and code that ends in time is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from engine.untrusted.time_limit import OutOfTime, time_limit


def endless(seconds: float = 0.2) -> None:
    with time_limit(seconds):
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


def test_all_blocks_share_one_thread():
    with time_limit(60):
        before = threading.active_count()
    for _ in range(200):
        with time_limit(60):
            assert threading.active_count() == before


def test_of_nested_blocks_the_one_whose_time_is_up_is_stopped():
    with time_limit(60):
        with pytest.raises(OutOfTime, match=r"0\.2 s"):
            endless()
        with time_limit(30):
            pass
    with pytest.raises(OutOfTime, match=r"0\.3 s"), time_limit(0.3):
        endless(60)


def test_a_forked_process_stops_its_blocks_too():
    with time_limit(60):  # the thread runs, and is not forked
        child = os.fork()
        if child == 0:
            try:
                endless()
            except OutOfTime:
                os._exit(7)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.slow
def test_nothing_is_raised_after_a_block_that_ended_in_time():
    with time_limit(1.0):
        pass
    time.sleep(1.2)
    assert sum(range(1000)) == 499500


def test_a_profiler_goes_on_after_a_block_that_ended_in_time():
    """Python 3.11 never ended a step of a traced thread that was asked to raise nothing: profilers, coverage, pdb."""
    script = (
        "import sys; from engine.untrusted.time_limit import time_limit\n"
        "sys.setprofile(lambda *_: None)\n"
        "with time_limit(5): pass\n"
        "print([str(x) for x in range(2)])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == "['0', '1']\n"
