"""One hostile input, tried in a process of its own."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DraftbenchError

SECONDS, GIGABYTES = 20.0, 1.0
_KILL_AFTER_S = 60


@dataclass(frozen=True)
class Case:
    """`attempt` makes the input in an empty folder and uses it as Draftbench would.

    It ends well if it returns (the input was read, or was set aside and reported), or raises a `DraftbenchError`.
    It raises AssertionError where the outcome is wrong although nothing crashed.
    """

    name: str
    attempt: Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """What came of a case: `state` is read, refused, wrong, traceback or killed; memory is growth over the parent's."""

    name: str
    state: str
    message: str
    seconds: float
    bytes: int

    @property
    def ok(self) -> bool:
        return self.state in ("read", "refused") and self.seconds <= SECONDS and self.bytes <= GIGABYTES * 1e9


def try_case(case: Case) -> Outcome:
    """Fork, try, measure. The parent has loaded the libraries, so a case costs what the input costs."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        reader, writer = os.pipe()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.setsid()
            os._exit(_in_child(case, Path(folder), writer))
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            report = pipe.read().decode(errors="replace")
        _, status, usage = os.wait4(child, 0)
        seconds = time.monotonic() - began
    state, _, message = report.partition("\n")
    if os.WIFSIGNALED(status) or not state:
        state, message = "killed", f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no answer"
    return Outcome(case.name, state, message, seconds, max(0, usage.ru_maxrss - before) * 1024)


def _in_child(case: Case, folder: Path, writer: int) -> int:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_KILL_AFTER_S)
    os.environ["DRAFTBENCH_HOME"], os.environ["DRAFTBENCH_CACHE"] = str(folder / "home"), str(folder / "cache")
    try:
        case.attempt(folder)
        report = "read\n"
    except DraftbenchError as error:
        report = f"refused\n{error.what}"
    except AssertionError as error:
        report = f"wrong\n{error}"
    except BaseException:
        report = f"traceback\n{traceback.format_exc(limit=-4)}"
    os.write(writer, report.encode(errors="replace")[:60_000])
    return 0
