"""SIGKILL at random moments of a run: does it resume each time, repeat no finished work and reach the same weights?

    python benchmarks/kill_resume.py

`draftbench run` works on a tiny random pair and is killed 20 times, first in capture, then in training, then while it
writes the index; each time `draftbench run --resume` continues it. A second home runs the same recipe without
interruption. At the end the two must agree: captures byte for byte, weights bit for bit, the curve, the metrics and the
rows of the index; and no answer that was on disk at a kill may be changed or written again. Takes about 4 minutes on
two idle cores.

A kill comes after a random share of a phase's work (answers, steps) and a random delay, so it hits its phase on any
machine; the files that it left show where it came. The moments depend on --seed.

Captures are made one prompt at a time, so that an answer cannot depend on the other prompts of its batch. A larger
batch (--capture-batch 8) rounds differently once it is composed differently, so an interrupted capture equals an
uninterrupted one only up to that rounding; the uninterrupted run is then given the finished captures of the other, and
the weights must be the same from there on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.kill_study import captures
from engine.fileio import sha256_file
from engine.index.changes import fingerprint
from engine.index.schema import RUN_TABLES
from engine.paths import Home
from engine.records.events import read_events, replay
from engine.records.status import Status
from engine.records.summary import Summary
from tests.conftest import byte_tokenizer, tiny_llama

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("capture", "train", "index")
CAPTURES = 3  # of the training prompts, and of the held-out ones at each of two temperatures
CHECKPOINT_EVERY = 20
INDEXING_S = 0.12  # about how long a run takes to be indexed: kills fall within
POLL_S = 0.002
TIMEOUT_S = 300


def make_recipe(folder: Path, prompts: int, steps: int, capture_batch: int) -> Path:
    """A tiny target with a byte tokenizer, prompts, and a recipe of a random draft; all on disk."""
    tiny_llama().save_pretrained(folder / "target")
    byte_tokenizer().save_pretrained(folder / "target")
    for name, count in (("train", prompts), ("heldout", 8)):
        rows = [{"id": f"{name}-{i:03}", "prompt": f"{name}: what is {i} times {i * i + 7}?"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "killed",
        "target": {"model": str(folder / "target")},
        "draft": {"init": "random", "layers": 2},
        "prompts": {"train": str(folder / "train.jsonl"), "heldout": str(folder / "heldout.jsonl")},
        "capture": {"max_new_tokens": 64, "batch_size": capture_batch},
        "train": {
            "epochs": 10_000,
            "max_steps": steps,
            "batch_size": 8,
            "eval_every": 50,
            "eval_prompts": 2,
            "checkpoint_every": CHECKPOINT_EVERY,
        },
        "measure": {
            "temperatures": [0.0, 1.0],
            "max_new_tokens": 16,
            "trace_prompts": 4,
            "speed_prompts": 0,
            "certificate_prompts": 1,
            "certificate_tokens": 4,
            "bootstrap_samples": 100,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def draftbench(home: Home, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command in a home; its output goes to `output.txt` there."""
    home.root.mkdir(parents=True, exist_ok=True)
    # One thread: these models are too small to share out, and threads that spin would slow the neighbours.
    environment = {**os.environ, "DRAFTBENCH_HOME": str(home.root), "OMP_NUM_THREADS": "1"}
    with open(home.root / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", *arguments], cwd=ROOT, env=environment, stdout=output, stderr=output
        )


def finished(process: subprocess.Popen[bytes], home: Home) -> None:
    """Wait for a command that must succeed; its words are the message if it does not."""
    if process.wait(TIMEOUT_S) != 0:
        raise SystemExit(f"exit status {process.returncode}\n{(home.root / 'output.txt').read_text()[-3000:]}")


def the_run(home: Home) -> Path:
    """The folder of the only run of a home; one that cannot exist until it was made."""
    return next(iter(home.runs.glob("*/config.yaml")), home.runs / "none" / "config.yaml").parent


def work_done(home: Home, phase: str) -> int:
    """Answers written or training steps reported, repeated ones included."""
    if phase == "capture":
        return sum(path.read_bytes().count(b"\n") for path in home.captures.glob("*/answers.jsonl"))
    events = the_run(home) / "events.jsonl"
    return events.read_bytes().count(b'"kind": "train"') if events.exists() else 0


def is_indexing(home: Home, pid: int) -> bool:
    """Whether that process has written that its run is done, which it does just before it indexes."""
    status = Status.read_or_empty(the_run(home))
    return status.state == "done" and status.pid == pid


def moment(home: Home, phase: str, pid: int, most: int, rng: random.Random) -> tuple[Callable[[], bool], float]:
    """When to kill: a condition to wait for, and seconds to wait after it."""
    if phase == "index":
        return (lambda: is_indexing(home, pid)), rng.uniform(0, INDEXING_S)
    wanted = work_done(home, phase) + rng.randint(1, most)
    return (lambda: work_done(home, phase) >= wanted), rng.uniform(0, 0.05)


def kill(process: subprocess.Popen[bytes], reached: Callable[[], bool], delay_s: float) -> bool:
    """Kill the process when the moment has come; False if it had ended of itself before."""
    until = time.monotonic() + TIMEOUT_S
    while not reached():
        if process.poll() is not None or time.monotonic() > until:
            break
        time.sleep(POLL_S)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def where_it_fell(home: Home) -> str:
    """The phase that a killed process was in, from the files it left."""
    run = the_run(home)
    if Status.read_or_empty(run).state == "done":
        return "end" if is_indexed(home) else "index"
    if (run / "training.json").exists():
        return "measure"
    return "train" if len(list(home.captures.glob("*/done.json"))) == CAPTURES else "capture"


def is_indexed(home: Home) -> bool:
    """Whether the index holds the run as its folder is now. Reads a copy, so that nothing is repaired."""
    with tempfile.TemporaryDirectory() as folder:
        for path in home.root.glob("index.duckdb*"):
            shutil.copy(path, folder)
        try:
            with duckdb.connect(f"{folder}/index.duckdb") as con:
                known = con.execute("SELECT fingerprint FROM runs").fetchall()
        except duckdb.Error:
            return False
    return known == [(fingerprint(the_run(home)),)]


def finished_work(home: Home) -> dict[Path, bytes]:
    """What no later session may change: whole answers, and the files that say that a phase is over."""
    answers = {path: path.read_bytes() for path in home.captures.glob("*/answers.jsonl")}
    whole = {path: raw[: raw.rfind(b"\n") + 1] for path, raw in answers.items()}
    run = the_run(home)
    ends = [*home.captures.glob("*/done.json"), run / "training.json", run / "measure" / "summary.json"]
    return whole | {path: path.read_bytes() for path in ends if path.exists()}


def unchanged(before: dict[Path, bytes], home: Home) -> bool:
    """Whether all that was finished then is there now, as it was; answers may have been added."""
    now = finished_work(home)
    return all(now.get(path, b"").startswith(old) for path, old in before.items())


def break_and_resume(home: Home, recipe: Path, plan: list[tuple[str, int]], rng: random.Random) -> Iterator[str]:
    """Kill a run as often as the plan says, then let it end; yields where each kill fell.

    plan: (phase, most units of its work until the kill). A kill that came too late for its phase
    is tried again. Raises SystemExit if a session redoes or spoils finished work.
    """
    arguments = ["run", str(recipe)]
    for phase, most in plan:
        fell = ""
        while fell != phase:
            before = finished_work(home)
            process = draftbench(home, *arguments)
            killed = kill(process, *moment(home, phase, process.pid, most, rng))
            if not killed and process.returncode != 0:
                finished(process, home)
            fell = where_it_fell(home) if killed else "none"
            if not unchanged(before, home):
                raise SystemExit(f"a session that was killed in {fell} changed what was finished before")
            print(f"  meant for {phase}: killed in {fell}", file=sys.stderr)
            arguments = ["run", "--resume", the_run(home).name]
            if killed:
                yield fell
    before = finished_work(home)
    finished(draftbench(home, *arguments), home)
    if not unchanged(before, home):
        raise SystemExit("the last session changed what was finished before")


def curve(home: Home) -> list[dict[str, Any]]:
    """Training and evaluation as they count, without the clock."""
    events = replay(read_events(the_run(home)).events)
    kept = [event.document() for event in events if event.kind in ("train", "eval")]
    return [{key: value for key, value in event.items() if key not in ("at", "seconds")} for event in kept]


def index_rows(home: Home) -> dict[str, int]:
    """Rows of each table of the index."""
    with duckdb.connect(str(home.index), read_only=True) as con:
        return {table: con.execute(f'SELECT count(*) FROM "{table}"').fetchall()[0][0] for table in RUN_TABLES}


def compare(broken: Home, whole: Home) -> dict[str, bool]:
    """What the interrupted and the uninterrupted run must have in common."""
    answered = [[line["id"] for line in lines] for lines, _ in captures(broken).values()]
    weights = [[sha256_file(p) for p in sorted(the_run(h).glob("draft/*/*.safetensors"))] for h in (broken, whole)]
    metrics = [Summary.read_or_empty(the_run(h)).metrics for h in (broken, whole)]
    complete = is_indexed(broken) and index_rows(broken) == index_rows(whole)
    finished(draftbench(broken, "index", "--rebuild"), broken)
    return {
        "each prompt answered once": all(len(ids) == len(set(ids)) for ids in answered),
        "captures byte-identical": captures(broken) == captures(whole),
        "weights bit-identical": len(weights[0]) == 2 and weights[0] == weights[1],
        "replayed curve identical": curve(broken) == curve(whole),
        "metrics identical": metrics[0] == metrics[1],
        "index complete": complete,
        "index rebuilt the same": is_indexed(broken) and index_rows(broken) == index_rows(whole),
    }


def measure(folder: Path, kills: int, prompts: int, steps: int, capture_batch: int, seed: int) -> dict[str, Any]:
    """Run both, kill one; the figures."""
    recipe = make_recipe(folder, prompts, steps, capture_batch)
    broken, whole = Home(folder / "broken"), Home(folder / "whole")
    reference = draftbench(whole, "run", str(recipe)) if capture_batch == 1 else None
    each = {phase: len(range(i, kills, len(PHASES))) for i, phase in enumerate(PHASES)}
    # Held-out captures are left out of the count: kills in capture must not run out of work.
    most = {"capture": prompts // (each["capture"] + 1), "train": steps // (each["train"] + 1), "index": 0}
    plan = [(phase, max(1, most[phase])) for phase in PHASES for _ in range(each[phase])]
    fell = Counter(break_and_resume(broken, recipe, plan, random.Random(seed)))
    if reference is None:
        shutil.copytree(broken.captures, whole.captures)
        reference = draftbench(whole, "run", str(recipe))
    finished(reference, whole)
    steps_taken = work_done(broken, "train")
    checks = compare(broken, whole)
    if capture_batch > 1:
        del checks["captures byte-identical"]  # they were copied: it would say nothing
    return {
        "kills": sum(fell.values()),
        "resumed": sum(fell.values()),
        "hits": {phase: fell[phase] for phase in fell},
        "prompts": prompts + 2 * 8,
        "steps": steps,
        "steps_repeated": steps_taken - steps,
        "checkpoint_every": CHECKPOINT_EVERY,
        "capture_batch": capture_batch,
        "seed": seed,
        "checks": checks,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark in a temporary folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many, over capture, training and indexing")
    parser.add_argument("--prompts", type=int, default=60, help="training prompts")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps")
    parser.add_argument("--capture-batch", type=int, default=1, help="prompts answered at once; see above")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    with tempfile.TemporaryDirectory(prefix="kill-resume-") as folder:
        figures = measure(Path(folder), **options)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        print("kills: " + ", ".join(f"{count} in {phase}" for phase, count in figures["hits"].items()))
        print(f"steps repeated after the last checkpoint: {figures['steps_repeated']} in {figures['kills']} kills")
        print("\n".join(f"{'ok' if ok else 'NO':4}{what}" for what, ok in figures["checks"].items()))
        print(f"{figures['resumed']} of {figures['kills']} resumed, ", end="")
        print(
            "finished work kept, all as uninterrupted"
            if all(figures["checks"].values())
            else "but not as uninterrupted"
        )
    return 0 if all(figures["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
