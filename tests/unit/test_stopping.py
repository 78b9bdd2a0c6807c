from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from engine.paths import PROJECT_ROOT
from engine.stopping import AT_ONCE_S, SOON_S, STOPPED

pytestmark = pytest.mark.slow

BEFORE = """
import hashlib, sys, time
from engine.stopping import keeping, stop_on_signals

def one_long_call():  # no instruction of Python in it, as in a forward of a large layer or a download
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def endless():
    while True:
        sum(range(1000))

def words():
    print("last words", flush=True)

with stop_on_signals(words) as stop:
    print("begun", flush=True)
"""
WORK = {
    "safe point": "    while not stop(): time.sleep(.01)\n    print('safe', flush=True)",
    "never asks": "    try: endless()\n    except KeyboardInterrupt: print('soon', flush=True)",
    "one call": "    one_long_call()",
    "twice": "    try: endless()\n    except KeyboardInterrupt: print('twice', flush=True)",
    "keeps": f"    with keeping(): time.sleep({AT_ONCE_S + 2})\n    print('kept', flush=True)\n    one_long_call()",
}


@pytest.fixture(scope="module")
def ended() -> dict[str, tuple[float, str, int]]:
    """How each work ended after one signal, or two of 'twice': seconds, output, exit status."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", BEFORE + work], stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT
        )
        for name, work in WORK.items()
    }
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    began, seconds = time.monotonic(), {}
    for name, process in processes.items():
        process.send_signal(signal.SIGTERM)
        if name == "twice":
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
    while len(seconds) < len(processes) and time.monotonic() < began + 30:
        seconds |= {
            n: time.monotonic() - began for n, p in processes.items() if n not in seconds and p.poll() is not None
        }
        time.sleep(0.02)
    result = {}
    for name, process in processes.items():
        process.kill()
        result[name] = (seconds.get(name, 1e9), process.communicate()[0], process.returncode)
    return result


def test_work_that_asks_ends_at_its_safe_point(ended):
    seconds, output, status = ended["safe point"]
    assert (output, status) == ("safe\n", 0)
    assert seconds < SOON_S


def test_work_that_does_not_ask_is_interrupted(ended):
    seconds, output, status = ended["never asks"]
    assert (output, status) == ("soon\n", 0)
    assert SOON_S - 0.1 < seconds < AT_ONCE_S


def test_one_long_call_is_ended_within_five_seconds_and_leaves_its_last_words(ended):
    seconds, output, status = ended["one call"]
    assert (output, status) == ("last words\n", STOPPED)
    assert seconds < 5


def test_a_second_signal_does_not_wait(ended):
    seconds, output, status = ended["twice"]
    assert (output, status) == ("twice\n", 0)
    assert seconds < SOON_S


def test_a_stop_waits_for_finished_work_that_is_being_written(ended):
    seconds, output, _ = ended["keeps"]
    assert output == "kept\nlast words\n"
    assert seconds > AT_ONCE_S + 1.9
