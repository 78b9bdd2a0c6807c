"""Work on strangers' input in a process of its own, with a limit of time and of memory.

A model folder or a prompt file can keep a library busy for ever, or make it take all memory. In a
server that would stop every page for everybody; here it stops one helper, which is ended.

A helper imports what it needs once and then waits for work, one piece at a time: asking a waiting
one costs milliseconds. One JSON line goes in, one comes out. Needs POSIX.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from engine.errors import DraftbenchError, first_line
from engine.paths import PROJECT_ROOT

MOST_BYTES = 4_000_000_000  # of memory a helper may hold, or half of the machine's
_MOST_ANSWER = 16_000_000  # bytes of an answer
_BEGINS_WITHIN_S = 180.0  # importing torch on a busy machine
_AT_ONCE = 4
_MEMORY_CHECK_S = 0.2
_READY = b'"ready"\n'


class _Ended(Exception):
    """The helper is gone, or was ended because it took too much time or memory."""


class Helpers:
    """Processes that run `python -m module`, whose main calls `serve`. Between requests at most one stays waiting."""

    def __init__(self, module: str, seconds: float, most_bytes: int | None = None) -> None:
        """`seconds` for each piece of work; `most_bytes` of memory, if not `MOST_BYTES` or half of the machine's."""
        self._module, self.seconds = module, seconds
        self._most_bytes = most_bytes or min(MOST_BYTES, psutil.virtual_memory().total // 2)
        self._idle: list[_Helper] = []
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_AT_ONCE)

    def ask(self, work: Any) -> Any:
        """Return what the function given to `serve` returns for `work`, both JSON values.

        Raises its DraftbenchError, or one that says that the limit of time or memory was reached.
        """
        if not self._free.acquire(timeout=self.seconds):
            raise DraftbenchError("too many checks are running already", "", "try again in a minute")
        try:
            helper = self._take()
            try:
                answer = helper.ask({"work": work, "environ": dict(os.environ)}, self.seconds)
            except BaseException:
                helper.end()
                raise
            self._give_back(helper)
        except _Ended as error:
            raise DraftbenchError(
                f"the check was stopped: {error}",
                "a file or model that is named here is too large, or reading it never ends",
                "check the files and the model; the command line has no such limit",
            ) from None
        finally:
            self._free.release()
        if "error" in answer:
            raise DraftbenchError(**answer["error"])
        return answer["done"]

    def warm(self) -> None:
        """Have a helper wait, so that the first to ask need not."""
        self._give_back(self._take())

    def close(self) -> None:
        """End the helpers that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for helper in idle:
            helper.end()

    def _take(self) -> _Helper:
        with self._lock:
            while self._idle:
                helper = self._idle.pop()
                if helper.alive:
                    return helper
                helper.end()
        return _Helper(self._module, self.seconds, self._most_bytes)

    def _give_back(self, helper: _Helper) -> None:
        with self._lock:
            if not self._idle:
                self._idle.append(helper)
                return
        helper.end()


class _Helper:
    """One process and its two pipes."""

    def __init__(self, module: str, seconds: float, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=PROJECT_ROOT,
            start_new_session=True,
        )
        self._fresh = True

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Any, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        if self._fresh and self._line(_BEGINS_WITHIN_S) != _READY:
            raise _Ended("the process for it did not start")
        self._fresh = False
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise _Ended("its process is gone") from None
        answer: dict[str, Any] = json.loads(self._line(seconds))
        return answer

    def _line(self, seconds: float) -> bytes:
        """The next line of the helper. Raises _Ended if it ends, or takes too long or too much memory."""
        assert self._process.stdout is not None
        read, deadline = bytearray(), time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not read.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _Ended(f"not finished after {seconds:g} s")
                if not selector.select(min(left, _MEMORY_CHECK_S)):
                    self._check_memory()
                    continue
                piece = os.read(self._process.stdout.fileno(), 65536)
                if not piece or len(read) > _MOST_ANSWER:
                    raise _Ended("its process ended" if not piece else "its answer does not end")
                read += piece
        return bytes(read)

    def _check_memory(self) -> None:
        """End a helper that holds too much: a limit on addresses would also count what drivers only reserve."""
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self._process.pid).memory_info().rss > self._most_bytes:
                raise _Ended(f"it took more than {self._most_bytes / 1e9:.1f} GB of memory")

    def end(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def serve(do: Callable[[Any], Any]) -> None:
    """The main of a helper: answers each line of work until its parent ends. `sys.argv[1]`: seconds for each."""
    seconds = float(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write(_READY)
    answers.flush()
    for line in sys.stdin.buffer:
        signal.alarm(int(seconds) + 5)  # should the parent be gone, nobody else ends it
        answers.write(json.dumps(_answer(do, json.loads(line))).encode() + b"\n")
        answers.flush()
        signal.alarm(0)


def _answer(do: Callable[[Any], Any], request: dict[str, Any]) -> dict[str, Any]:
    os.environ.clear()
    os.environ.update(request["environ"])
    try:
        return {"done": do(request["work"])}
    except DraftbenchError as error:
        return {"error": error.as_dict()}
    except MemoryError:
        too_large = DraftbenchError("the check needs too much memory", "", "name smaller files, or a smaller model")
        return {"error": too_large.as_dict()}
    except Exception as error:
        explained = DraftbenchError(
            f"{type(error).__name__}: {first_line(error)}", "", "check the files and the model that it names"
        )
        return {"error": explained.as_dict()}
