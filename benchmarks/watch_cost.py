"""How much server time does an open page cost during a run, whose speed is measured on the same cores?

    python benchmarks/watch_cost.py --seconds 30

Adds the sample runs to a home, makes one of them look as if it were running (this process writes its heartbeat and its
events), opens its page in a real Chromium, and prints the server's processor time as a share of one core: in training,
while speed is being timed, and on Home. Exits with status 1 if it takes more than 5% of a core while speed is timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.fileio import append_line, read_lines, write_json
from engine.paths import Home
from engine.runs.folder import RunFolder
from engine.runs.process import now, process_identity
from engine.runs.samples import lay_out_samples
from tests.browser import harness

SAMPLE, LIMIT = "biology-forward-kl-20261122-101542-9142", 0.05
VIEWS = {
    "run, curves, training": ("train", "/run?run={run}"),
    "run, log, training": ("train", "/run?run={run}&view=Log"),
    "run, curves, timing": ("speed", "/run?run={run}"),
    "home, timing": ("speed", "/"),
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=30)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch) / "home")
        os.environ["DRAFTBENCH_HOME"] = str(home.root)
        lay_out_samples(home)
        run = RunFolder(home.run(SAMPLE))
        events = [event for event in read_lines(run.path / "events.jsonl") if event.get("kind") in ("train", "eval")]
        server = harness.start(home.root, Path(scratch) / "server.log")
        try:
            shares = {name: watched(server, run, events, *view, given.seconds) for name, view in VIEWS.items()}
        finally:
            server.stop()
    for name, share in shares.items():
        print(f"{name}: {share:.1%} of a core")
    return 1 if max(share for name, share in shares.items() if name.endswith("timing")) > LIMIT else 0


def watched(
    server: harness.Server, run: RunFolder, events: list[dict[str, object]], phase: str, path: str, seconds: float
) -> float:
    """The server's processor time over wall time while the page is open during the run."""
    at_work(run, phase, 0)
    with harness.browser() as browser:
        page = browser.page()
        page.goto(server.url + path.format(run=run.id))
        harness.settle(page)
        page.wait_for_timeout(5000)  # the first drawing, and what is loaded beside it
        process = psutil.Process(server.process.pid)
        began, before = time.monotonic(), sum(process.cpu_times()[:2])
        for step in range(1, int(seconds) + 1):
            at_work(run, phase, step)
            if phase == "train":
                append_line(run.path / "events.jsonl", {**events[step % len(events)], "step": len(events) + step})
            page.wait_for_timeout(1000)
        return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


def at_work(run: RunFolder, phase: str, done: int) -> None:
    progress = {
        "phase": phase,
        "done": done,
        "total": 1000,
        "unit": "steps" if phase == "train" else "answers",
        "phase_s": done + 1.0,
    }
    status = {"state": "running", "phase": phase, "progress": progress, "created_at": now(), "updated_at": now()}
    write_json(run.path / "status.json", {**status, **process_identity()})


if __name__ == "__main__":
    sys.exit(main())
