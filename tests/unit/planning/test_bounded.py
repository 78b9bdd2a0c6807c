"""Work in a process of its own: its answer, its errors, and its end when it takes too long or too much."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import DraftbenchError
from engine.planning import bounded
from engine.planning.bounded import Helpers, serve

pytestmark = pytest.mark.slow

_SECONDS = 5.0
_MOST_BYTES = 400_000_000


def do(work: Any) -> Any:
    """What the helpers of this test can do."""
    match work:
        case ["echo", value]:
            print("a library prints")
            return value
        case ["pid"]:
            return os.getpid()
        case ["variable", name]:
            return os.environ.get(name)
        case ["sleep", seconds]:
            time.sleep(seconds)
        case ["read", path]:
            return Path(path).read_bytes().decode()
        case ["fill"]:
            held = b"x" * 2 * _MOST_BYTES
            time.sleep(60)
            del held
        case ["die"]:
            os._exit(3)
        case ["explain"]:
            raise DraftbenchError("what", "why", "fix")
        case ["break"]:
            raise KeyError("x")
    return None


@pytest.fixture(scope="module")
def impatient() -> Iterator[Helpers]:
    made = Helpers("tests.unit.planning.test_bounded", 2.0, _MOST_BYTES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def helpers() -> Iterator[Helpers]:
    made = Helpers("tests.unit.planning.test_bounded", _SECONDS, _MOST_BYTES)
    yield made
    made.close()


def test_one_helper_answers_again_and_again_and_sees_todays_environment(
    helpers: Helpers, monkeypatch: pytest.MonkeyPatch
):
    first = helpers.ask(["pid"])
    assert helpers.ask(["echo", {"a": [1, "光\u2028", None]}]) == {"a": [1, "光\u2028", None]}
    monkeypatch.setenv("OF_THIS_TEST", "yes")
    assert helpers.ask(["variable", "OF_THIS_TEST"]) == "yes"
    assert helpers.ask(["pid"]) == first != os.getpid()


@pytest.mark.parametrize(
    "work", [["sleep", 60], ["read", "/dev/zero"], ["read", "pipe"]], ids=["sleeps", "endless", "pipe"]
)
def test_what_does_not_end_is_ended_and_the_next_is_answered(impatient: Helpers, work: list[Any], tmp_path: Path):
    helpers = impatient
    if work[-1] == "pipe":
        os.mkfifo(tmp_path / "pipe")
        work = ["read", str(tmp_path / "pipe")]
    first, began = helpers.ask(["pid"]), time.monotonic()
    with pytest.raises(DraftbenchError, match="the check was stopped"):
        helpers.ask(work)
    assert time.monotonic() - began < 60
    assert isinstance(helpers.ask(["pid"]), int)
    assert not psutil.pid_exists(first)


def test_memory_has_a_limit(helpers: Helpers):
    with pytest.raises(DraftbenchError, match=r"more than 0\.4 GB of memory"):
        helpers.ask(["fill"])


def test_an_end_in_the_middle_is_an_error_and_the_next_is_answered(helpers: Helpers):
    with pytest.raises(DraftbenchError, match="its process ended"):
        helpers.ask(["die"])
    assert helpers.ask(["echo", 1]) == 1


def test_errors_come_back_in_three_parts(helpers: Helpers):
    with pytest.raises(DraftbenchError) as refused:
        helpers.ask(["explain"])
    assert refused.value.as_dict() == {"what": "what", "why": "why", "fix": "fix"}
    with pytest.raises(DraftbenchError, match="KeyError"):
        helpers.ask(["break"])


def test_a_helper_that_was_killed_while_it_waited_is_replaced(helpers: Helpers):
    pid = helpers.ask(["pid"])
    killed = psutil.Process(pid)
    killed.kill()
    while killed.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert helpers.ask(["pid"]) != pid


def test_what_cannot_start_is_an_error():
    with pytest.raises(DraftbenchError, match="its process ended"):
        Helpers("engine.no_such_module", 1).ask(None)


def test_no_more_than_some_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded, "_AT_ONCE", 1)
    full = Helpers("engine.no_such_module", 0.1)
    full._free.acquire()
    with pytest.raises(DraftbenchError, match="too many checks are running"):
        full.ask(None)


if __name__ == "__main__":
    serve(do)
