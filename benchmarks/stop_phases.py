"""How long does work take to end after Cancel, in each phase?

    python benchmarks/stop_phases.py                     # 5 to 10 minutes on two idle cores
    python benchmarks/stop_phases.py --case train --case "one long step"

Real processes on the embedded model. One run is stopped as the page's Cancel does, in one phase after the other, and
resumed each time: loading, capture, train, measure, speed, certificate. Then a step that is one forward of 32,000
tokens, a download from a server that has stopped answering, the tuning of a target, and Magpie. Prints the seconds
until the run says that it was cancelled (of the last two: until the process is gone), and what it says; exits with
status 1 if one took more than five.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.paths import PROJECT_ROOT, Home
from engine.runs.folder import RunFolder, run_folders

LIMIT_S, PATIENCE_S = 5.0, 1800.0
PHASES = ("loading", "capture", "train", "measure", "speed", "certificate")
OTHERS = ("one long step", "download", "tune", "magpie")
SMOKE = ["run", "recipes/smoke.yaml"]
LONG_STEP = ["train.micro_batch_tokens=32000", "train.batch_size=32", "capture.max_new_tokens=512", "train.epochs=8"]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--case", action="append", choices=[*PHASES, *OTHERS])
    cases = arguments.parse_args().case or [*PHASES, *OTHERS]
    slow = False
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch) / "home")
        for case in cases:
            seconds, state = _one(case, home, Path(scratch))
            slow |= seconds > LIMIT_S
            print(f"{case:15} {seconds:5.1f} s   {state}", flush=True)
    return 1 if slow else 0


def _one(case: str, home: Home, scratch: Path) -> tuple[float, str]:
    """Seconds from the signal to the end, and the run's state."""
    if case in PHASES:
        runs = run_folders(home)
        command = ["run", "--resume", runs[0].id] if runs else [*SMOKE, "--set", "measure.speed_prompts=6"]
        return _stopped_run(command, home, scratch, "" if case == "loading" else case)
    if case == "one long step":
        sets = [part for setting in LONG_STEP for part in ("--set", setting)]
        return _stopped_run([*SMOKE, *sets], Home(scratch / "long"), scratch, "train")
    if case == "download":
        with _silent_server() as port:
            environment = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_DISABLE_XET": "1"}
            command = [*SMOKE, "--set", "target.model=hub:nobody/nothing"]
            return _stopped_run(command, Home(scratch / "hub"), scratch, "", environment)
    commands = {
        "tune": ["tune", "recipes/targets/biology.yaml", "--out", str(scratch / "target")],
        "magpie": ["data", "magpie", "recipes/magpie/general.yaml", "--out", str(scratch / "prompts.jsonl")],
    }
    with _started(commands[case], home, scratch / f"{case}.log") as process:
        _until(lambda: b"%|" in (scratch / f"{case}.log").read_bytes(), process)  # the bar of its first phase
        time.sleep(1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        return time.monotonic() - began, f"exit status {process.returncode}"


def _stopped_run(
    command: list[str], home: Home, scratch: Path, phase: str, environment: dict[str, str] | None = None
) -> tuple[float, str]:
    """Start work on a run and stop it a second after it has come to the phase; '': while it has not begun one."""
    with _started(command, home, scratch / "run.log", environment) as process:
        run: list[RunFolder] = []

        def there() -> bool:
            run[:] = [one for one in run_folders(home) if one.status().pid == process.pid]
            return bool(run) and run[0].status().state == "running" and (not phase or run[0].status().phase == phase)

        _until(there, process)
        time.sleep(1)
        began = time.monotonic()
        run[0].ask_to_stop()
        while run[0].status().state == "running":
            time.sleep(0.02)
        seconds, state = time.monotonic() - began, run[0].status().state
        process.wait(PATIENCE_S)
        return seconds, f"{state}; the process was gone after {time.monotonic() - began:.1f} s"


@contextlib.contextmanager
def _started(
    command: list[str], home: Home, log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    places = {"DRAFTBENCH_HOME": str(home.root), **(environment or {})}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", *command],
            cwd=PROJECT_ROOT,
            env={**os.environ, **places},
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not holds():
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"{process.args} ended with {process.returncode}, or took too long, before that phase")
        time.sleep(0.02)


@contextlib.contextmanager
def _silent_server() -> Iterator[int]:
    """A server that takes connections and says nothing, as one whose network is lost."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield int(server.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
