"""A server of somebody else's as a process of ours: on loopback, with a log, and never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx2

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.untrusted.visible import visible

_LAST_LINES, _LINE_CHARACTERS = 8, 400  # of a log, in an error
_READ_BYTES = 200_000
_ERROR = re.compile(r"\b\w*(Error|Exception)\b: |\berror: ")
_POLL_S = 0.25
_END_S = 15.0  # for a server to end by itself
_CHILDREN_END_S = 5.0  # for its children, after it
# Reads from a pipe that we alone can write to: that ends only when we do, whatever ended us.
_ENDS_WITH_US = """
import os, signal, sys, time
os.read(0, 1)
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.killpg(int(sys.argv[1]), number)
    except OSError:
        break
    time.sleep(float(sys.argv[2]))
"""


@dataclass(frozen=True)
class Program:
    """How to start a server: the command without its port, and what it needs in its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    port_option: str = "--port"


@dataclass(frozen=True)
class RunningServer:
    """A server that answers requests. `startup_s`: seconds until it did."""

    base_url: str
    pid: int
    log: Path
    startup_s: float


@contextlib.contextmanager
def running(program: Program, log: Path, *, health: str, startup_s: float) -> Iterator[RunningServer]:
    """Start a server on a free port of 127.0.0.1, wait until `health` answers 200, and end it in any case.

    It is ended by its process group, which it leads: some servers have children that do the work. SIGTERM ends the
    work here as Ctrl-C does, so that the server goes first; if this process is killed, a small one beside it ends the
    server. Output goes to `log`. Raises DraftbenchError, with the
    log's last lines, if it ends or does not answer within `startup_s` seconds.
    """
    port = free_port()
    command = [*program.command, "--host", "127.0.0.1", program.port_option, str(port)]
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        output = open(log, "wb")  # noqa: SIM115 - closed below; errors of the body are none of the log's
    with output, _sigterm_as_interrupt():
        process = _start(command, program.environment, output.fileno())
        watcher = subprocess.Popen(
            [sys.executable, "-S", "-c", _ENDS_WITH_US, str(process.pid), str(_CHILDREN_END_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            seconds = _wait(process, url + health, log, startup_s)
            yield RunningServer(url, process.pid, log, seconds)
        finally:
            end(process)
            watcher.kill()
            watcher.communicate()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(command: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for us: we end the server, and know that it has ended
        )
    except OSError as error:
        raise DraftbenchError(
            f"{command[0]} cannot be started: {error.strerror}",
            "it is not a program of this machine",
            "name another with --program, or install one: `draftbench served setup --help`",
        ) from None


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, startup_s: float) -> float:
    """Seconds until the server answered."""
    began = time.monotonic()
    with httpx2.Client(trust_env=False, timeout=5) as client:
        while True:
            waited = time.monotonic() - began
            if process.poll() is not None:
                raise _did_not_start(f"the server ended with status {process.returncode} after {waited:.0f} s", log)
            if waited > startup_s:
                raise _did_not_start(f"the server did not answer within {startup_s:.0f} s", log)
            with contextlib.suppress(httpx2.HTTPError):
                if client.get(url).status_code == 200:
                    return waited
            time.sleep(_POLL_S)


def _did_not_start(what: str, log: Path) -> DraftbenchError:
    return DraftbenchError(what, f"its last lines were:\n{last_lines(log)}", f"{log} has all that it wrote")


def last_lines(log: Path) -> str:
    """The end of a log, harmless to print, and before it the first line that names an error: often the cause."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _READ_BYTES))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    last = lines[-_LAST_LINES:]
    cause = [line for line in lines[: -len(last)] if _ERROR.search(line)][:1]
    return "\n".join(visible(line)[:_LINE_CHARACTERS] for line in (*cause, *last)) or "(none)"


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: politely, then by force. Returns when none of them is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        if _group_has_ended(process.pid, _CHILDREN_END_S if process.returncode is not None else 0):
            return


def _group_has_ended(group: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while True:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt meanwhile. Only the main thread can ask for that; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
