"""A study on a Ray cluster whose nodes and driver are killed: does it end as one that was run alone?

    python benchmarks/ray_study.py

Twelve tiny cells (two losses, offline and online, three seeds) run once through this machine's queue, and once on a
cluster of three nodes on this machine (`ray.cluster_utils.Cluster`). Two nodes are killed in the middle, each replaced
by a new one, and the driver once. At the end every cell must be done once, everything in it but times must be the same
bit for bit (weights, curves, metrics, every table of the measurement), the captures byte for byte, and what was
finished before a kill must not have been touched again. By default each node works in a home of its own, so that
everything comes home through Ray; with `--shared` they work in the study's home.

Then the same study runs on one worker with two cores and on two workers with one core each. The time between the end
of one cell and the start of the next cell's process is the overhead of placing a cell. Takes about ten minutes on two
idle cores; the moments of the kills depend on --seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import itertools

from benchmarks.kill_study import captures, differing, make_study, results, work_done
from engine.paths import Home
from engine.records.events import read_events
from engine.runs.folder import RunFolder, run_folders

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 900


def study_of(folder: Path, prompts: int, epochs: int, losses: int, modes: int, seeds: int) -> Path:
    """The tiny target, its prompts and a study of losses x modes x seeds cells that share their captures."""
    path = make_study(folder, prompts, epochs)
    values = yaml.safe_load(path.read_text())
    axes = values["axes"]
    axes["loss"] = axes["loss"][:losses]
    axes["mode"] = dict(list(axes["mode"].items())[:modes])
    axes["seed"] = {f"s{seed}": {"train.seed": seed} for seed in range(seeds)}
    del values["grids"]
    path.write_text(yaml.safe_dump({**values, "name": "placed"}))
    return path


class TestCluster:
    """A head that only places work, and workers, on this machine; `apart`: where each has a home of its own."""

    def __init__(self, workers: int, cores: int, apart: Path | None) -> None:
        from ray.cluster_utils import Cluster

        self.apart, self.cores, self.begun = apart, cores, 0
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = str(self.cluster.address)
        self.nodes = [self.add() for _ in range(workers)]

    def add(self) -> tuple[Any, Path | None]:
        """One more worker, with its home if it has one."""
        self.begun += 1
        own = None if self.apart is None else self.apart / f"node{self.begun}"
        variables = {} if own is None else {"DRAFTBENCH_NODE_HOME": str(own)}
        return self.cluster.add_node(num_cpus=self.cores, env_vars=variables), own

    def kill_one(self, rng: random.Random) -> str:
        """SIGKILL to all processes of a worker, one at work if that can be told, and a new one in its place."""
        busy = [one for one in self.nodes if one[1] is not None and list(one[1].glob("*/attempts/*/runs/*"))]
        killed = rng.choice(busy or self.nodes)
        self.nodes.remove(killed)
        self.cluster.remove_node(killed[0], allow_graceful=False)
        self.nodes.append(self.add())
        return "a node at work" if busy else "a node"


@contextlib.contextmanager
def cluster_of(workers: int, cores: int, apart: Path | None = None) -> Iterator[TestCluster]:
    """A cluster that is gone afterwards. Its files lie in a folder with a short name: sockets need one."""
    temporary = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    own = {
        "RAY_TMPDIR": temporary,  # the address of this cluster is no other program's business
        "RAY_worker_niceness": "0",  # as the queue's runs: at Ray's 15, they would wait for whatever else runs here
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    made = TestCluster(workers, cores, apart)
    try:
        yield made
    finally:
        made.cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
        shutil.rmtree(temporary, ignore_errors=True)


def call(home: Home, recipe: Path, address: str | None, settings: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """`draftbench study` in a home, on a cluster if there is an address; its output goes to `output.txt` there."""
    home.root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DRAFTBENCH_HOME": str(home.root), "OMP_NUM_THREADS": "1"}
    environment |= {} if address is None else {"RAY_ADDRESS": address}
    on = [] if address is None else ["--on", "ray"]
    more = [word for setting in settings for word in ("--set", setting)]
    with open(home.root / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", "study", str(recipe), "--yes", "--no-estimate", *on, *more],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )


def finish(process: subprocess.Popen[bytes], home: Home) -> None:
    """Wait for a study that must end well, and for its driver; what they printed is the message if it does not."""
    if process.wait(TIMEOUT_S) != 0:
        logs = [path.read_text()[-3000:] for path in [home.root / "output.txt", *home.root.glob("places/*/driver.log")]]
        raise SystemExit(f"exit status {process.returncode}\n" + "\n".join(logs))
    ends = time.monotonic() + 60
    while driver(home) is not None and time.monotonic() < ends:
        time.sleep(0.1)


def driver(home: Home) -> psutil.Process | None:
    """The home's live driver or worker of the queue, by the environment that it was started with."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            ours = "engine" in command and "work" in command and process.status() != psutil.STATUS_ZOMBIE
            if ours and process.environ().get("DRAFTBENCH_HOME") == str(home.root.absolute()):
                return process
    return None


def finished(home: Home) -> dict[str, Any]:
    """What is finished: runs with the time of their end, and whole captures with the time of their last change."""
    done = {run.id: run.status().ended_at for run in run_folders(home) if run.status().state == "done"}
    whole = {p.parent.name: (p.parent / "answers.jsonl").stat().st_mtime_ns for p in home.captures.glob("*/done.json")}
    return {**done, **whole}


def break_and_go_on(
    home: Home, recipe: Path, nodes: TestCluster, kills: list[str], whole_work: int, rng: random.Random
) -> tuple[list[str], bool]:
    """Kill nodes and the driver at random moments of one study; where each kill fell, and whether what was finished
    at that moment was left alone afterwards."""
    process, fell, kept = call(home, recipe, nodes.address), [], []
    done = 0
    for number, what in enumerate(kills):
        until = done + rng.randint(1, max(2, (whole_work - done) // (len(kills) - number + 1)))
        ends = time.monotonic() + TIMEOUT_S
        while process.poll() is None and work_done(home) < until and time.monotonic() < ends:
            time.sleep(0.05)
        if process.poll() is not None:
            raise SystemExit(f"the study ended after {number} of {len(kills)} kills: give it more work")
        done, before = work_done(home), finished(home)
        if what == "node":
            fell.append(nodes.kill_one(rng))
        elif (one := driver(home)) is not None:
            one.kill()
            fell.append("the driver")
        kept.append(before)
        print(f"  kill {number + 1}: {fell[-1]}, with {len(before)} runs and captures finished", file=sys.stderr)
    finish(process, home)
    after = finished(home)
    return fell, all(after.get(name) == value for before in kept for name, value in before.items())


def sessions(home: Home) -> dict[str, tuple[int, int]]:
    """Run -> how often it was begun, and how often it ended as done."""
    counts = {}
    for run in run_folders(home):
        kinds = [event.document() for event in read_events(run.path).events]
        ended = sum(event["kind"] == "ended" and event.get("state") == "done" for event in kinds)
        counts[run.id] = (sum(event["kind"] == "started" for event in kinds), ended)
    return counts


def overheads(home: Home) -> list[float]:
    """Seconds from the end of each run to the start of the process of the one after it, on one worker."""
    statuses = [run.status() for run in run_folders(home)]
    times = sorted((s.pid_started or 0.0, datetime.fromisoformat(s.ended_at or "").timestamp()) for s in statuses)
    return [start - end for (_, end), (start, _) in itertools.pairwise(times)]


def timed(home: Home, recipe: Path, workers: int, cores: int) -> float:
    """Seconds of the study on a fresh cluster, from the first run's placing to the last one's end."""
    with cluster_of(workers, cores) as nodes:
        finish(call(home, recipe, nodes.address, (f"resources.cpus={cores}",)), home)
    ends = [datetime.fromisoformat(run.status().ended_at or "").timestamp() for run in run_folders(home)]
    return max(ends) - min(run.status().pid_started or 0.0 for run in run_folders(home))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One study run alone, one on the cluster that is broken, and two for the time; the figures."""
    cells = options.losses * options.modes * options.seeds
    recipe = study_of(folder, options.prompts, options.epochs, options.losses, options.modes, options.seeds)
    alone, broken = Home(folder / "alone"), Home(folder / "broken")
    finish(call(alone, recipe, None), alone)
    rng, kills = random.Random(options.seed), options.kills.split(",") if options.kills else []
    with cluster_of(options.nodes, 1, None if options.shared else folder / "nodes") as nodes:
        fell, untouched = break_and_go_on(broken, recipe, nodes, kills, work_done(alone), rng)
    mine, theirs = results(broken, recipe), results(alone, recipe)
    runs = [RunFolder(path) for path in broken.runs.iterdir() if path.is_dir() and not path.name.startswith(".")]
    differs = {name: differing(mine.get(name), theirs[name]) for name in theirs}
    begun = sessions(broken)
    figures: dict[str, Any] = {
        "kills": fell,
        "home": "shared" if options.shared else "a home per node",
        "sessions": {run: count for run, (count, _) in begun.items()},
        "cells": differs,
        "checks": {
            "every cell done": len(mine) == len(theirs) == cells,
            "each cell one run, ended once": len(runs) == cells and all(ended == 1 for _, ended in begun.values()),
            "all that is no clock bit-identical": bool(differs) and not any(differs.values()),
            "captures byte-identical": captures(broken) == captures(alone),
            "what was finished before a kill was left alone": untouched,
            "a kill met a run at work": not kills or any(count > 1 for count, _ in begun.values()),
            "no checkpoint left over": not list(broken.runs.glob("*/checkpoints/*")),
        },
    }
    if options.time:
        one, two = Home(folder / "one"), Home(folder / "two")
        seconds = {
            "one worker, 2 cores": timed(one, recipe, 1, 2),
            "two workers, 1 core each": timed(two, recipe, 2, 1),
        }
        gaps = overheads(one)
        figures["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
        figures["placing_s"] = {"median": round(statistics.median(gaps), 2), "most": round(max(gaps), 2)}
        figures["checks"]["placing a cell takes less than 3 s"] = statistics.median(gaps) < 3
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark in a temporary folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", default="node,driver,node", help="what to kill, in this order")
    parser.add_argument("--nodes", type=int, default=2, help="workers beside the head")
    parser.add_argument("--prompts", type=int, default=24, help="training prompts")
    parser.add_argument("--epochs", type=int, default=5, help="of the offline cells")
    parser.add_argument("--losses", type=int, default=2)
    parser.add_argument("--modes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--shared", action="store_true", help="nodes work in the home itself")
    parser.add_argument("--no-time", dest="time", action="store_false", help="leave out one worker against two")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ray-study-", ignore_cleanup_errors=True) as folder:
        figures = measure(Path(folder), options)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        _print(figures)
    return 0 if all(figures["checks"].values()) else 1


def _print(figures: dict[str, Any]) -> None:
    print("killed: " + "; ".join(figures["kills"]) + f" ({figures['home']})")
    for name, differs in figures["cells"].items():
        print(f"NO  {name}: {', '.join(differs)} differ" if differs else f"ok  {name}")
    print("\n".join(f"{'ok' if ok else 'NO':4}{what}" for what, ok in figures["checks"].items()))
    for name, seconds in figures.get("seconds", {}).items():
        print(f"{seconds:8.1f} s  {name}")
    if "placing_s" in figures:
        print(f"placing a cell: {figures['placing_s']['median']} s median, {figures['placing_s']['most']} s most")


if __name__ == "__main__":
    sys.exit(main())
