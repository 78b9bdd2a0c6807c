"""How much server time do open pages cost: when nothing happens, while a run trains, and while it times its speed?

    python benchmarks/watch_cost.py --seconds 30
    python benchmarks/watch_cost.py --beside ../before        # another checkout, each view in turn with this one

Adds the sample runs to a home, makes one of them look as if it were running (this process writes its heartbeat and its
events), opens pages in a real Chromium, all of them visible to it, and prints the processor time of the server as a
share of one core, as the system counts it: what else the machine does changes it little. Exits with status 1 if five
pages cost more than 2% of a core when nothing happens, or any page does while speed is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.fileio import append_line, read_lines, write_json
from engine.paths import PROJECT_ROOT, Home
from engine.runs.folder import RunFolder
from engine.runs.process import now, process_identity
from engine.runs.samples import lay_out_samples
from tests.browser import harness

SAMPLE, LIMIT = "biology-forward-kl-20261122-101542-9142", 0.02
RUN, HOME = "/run?run={run}", "/"
FIVE = (HOME, "/runs", RUN, "/compare", "/live")
VIEWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "idle, no page": ("", ()),
    "idle, five pages": ("", FIVE),
    "training, Run with curves": ("train", (RUN,)),
    "training, Run with log": ("train", (RUN + "&view=Log",)),
    "training, Home": ("train", (HOME,)),
    "training, five pages": ("train", FIVE),
    "timing, Run with curves": ("speed", (RUN,)),
    "timing, Home": ("speed", (HOME,)),
    "timing, five pages": ("speed", FIVE),
}


@dataclass
class Bench:
    """The workbench of one checkout, with a run that this process pretends to work on."""

    server: harness.Server
    run: RunFolder
    events: list[dict[str, object]]
    finished: bytes  # the status that the run came with


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=30)
    arguments.add_argument("--beside", type=Path, help="another checkout to measure in turn")
    arguments.add_argument("--view", action="append", choices=list(VIEWS), help="of all views only this one")
    given = arguments.parse_args()
    roots = [PROJECT_ROOT, *([given.beside.resolve()] if given.beside else [])]
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        benches = [_started(Path(scratch) / str(number), root, running) for number, root in enumerate(roots)]
        print("server's share of a core".ljust(28) + "".join(root.name.rjust(12) for root in roots), flush=True)
        for name in given.view or VIEWS:
            shares = [watched(bench, *VIEWS[name], given.seconds) for bench in benches]
            print(name.ljust(28) + "".join(f"{share:.1%}".rjust(12) for share in shares), flush=True)
            worst = max(worst, shares[0]) if not name.startswith("training") else worst
    return 1 if worst > LIMIT else 0


def _started(folder: Path, root: Path, running: contextlib.ExitStack) -> Bench:
    home = Home(folder / "home")
    lay_out_samples(home)
    run = RunFolder(home.run(SAMPLE))
    events = [event for event in read_lines(run.path / "events.jsonl") if event.get("kind") in ("train", "eval")]
    server = harness.start(home.root, folder / "server.log", root=root)
    running.callback(server.stop)
    return Bench(server, run, events, (run.path / "status.json").read_bytes())


def watched(bench: Bench, phase: str, paths: Sequence[str], seconds: float) -> float:
    """The server's processor time over wall time while the pages are open during the run."""
    _phase(bench, phase, 0)
    with harness.browser() as browser:
        pages = [browser.page() for _ in paths]
        for page, path in zip(pages, paths, strict=True):
            page.goto(bench.server.url + path.format(run=bench.run.id))
            harness.settle(page, seconds=300)
        time.sleep(10)  # the first drawing, and what is loaded beside it
        process = psutil.Process(bench.server.process.pid)
        began, before = time.monotonic(), sum(process.cpu_times()[:2])
        for step in range(1, int(seconds) + 1):
            _phase(bench, phase, step)
            pages[0].wait_for_timeout(1000) if pages else time.sleep(1)
        return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


def _phase(bench: Bench, phase: str, done: int) -> None:
    """One second of the run's work; without a phase it is finished."""
    if not phase:
        (bench.run.path / "status.json").write_bytes(bench.finished)
        return
    at_work(bench.run, phase, done)
    if phase == "train":
        event = bench.events[done % len(bench.events)]
        append_line(bench.run.path / "events.jsonl", {**event, "step": len(bench.events) + done})


def at_work(run: RunFolder, phase: str, done: int) -> None:
    progress = {
        "phase": phase,
        "done": done,
        "total": 1000,
        "unit": "steps" if phase == "train" else "tokens",
        "phase_s": done + 1.0,
    }
    status = {"state": "running", "phase": phase, "progress": progress, "created_at": now(), "updated_at": now()}
    write_json(run.path / "status.json", {**status, **process_identity()})


if __name__ == "__main__":
    sys.exit(main())
