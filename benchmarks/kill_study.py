"""SIGKILL at random moments of a study: does it end with the same results as an undisturbed one?

    python benchmarks/kill_study.py

A study of six cells on a tiny random pair (two losses, offline and online, and offline cells with as many tokens and
steps) is started with `draftbench study`. At ten random moments the command, the queue's worker and the current job are
all killed at once, and the study is called again. A second home runs the same study undisturbed. At the end every cell
must be done once, and everything in it but times must be the same bit for bit: weights, curve, stream, effort, metrics
and every table of the measurement; so must the captures. Takes about four minutes on two idle cores, and about one with
--two-cells (one loss, offline and online) and three kills. The moments depend on --seed.

Captures are made one prompt at a time, so that an answer cannot depend on the other prompts of its batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.fileio import read_json, read_lines, sha256_file
from engine.index.curves import streamed_queries
from engine.paths import Home
from engine.records.events import read_events, replay
from engine.records.training import Training
from engine.runs.folder import RunFolder
from engine.study.cells import expand
from engine.study.spec import load_study
from engine.study.state import look
from tests.conftest import byte_tokenizer, tiny_llama

ROOT = Path(__file__).resolve().parent.parent
CELLS = 6  # of the whole study
TIMEOUT_S = 900


def make_study(folder: Path, prompts: int, epochs: int, two_cells: bool = False) -> Path:
    """A tiny target with a byte tokenizer, prompts, and the study's recipe; all on disk."""
    tiny_llama().save_pretrained(folder / "target")
    byte_tokenizer().save_pretrained(folder / "target")
    for name, count in (("train", prompts), ("heldout", 8)):
        rows = [{"id": f"{name}-{i:03}", "prompt": f"{name}: what is {i} times {i * i + 7}?"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "name": "killed",
        "base": {
            "target": {"model": str(folder / "target"), "dtype": "float32", "device": "cpu"},
            "draft": {"init": "random", "layers": 2},
            "prompts": {
                "train": str(folder / "train.jsonl"),
                "heldout": str(folder / "heldout.jsonl"),
                "train_prompts": prompts,
            },
            "capture": {"max_new_tokens": 32, "batch_size": 1},
            "train": {"epochs": epochs, "batch_size": 4, "eval_every": 5, "eval_prompts": 2, "checkpoint_every": 3},
            "measure": {
                "max_new_tokens": 16,
                "trace_prompts": 2,
                "speed_prompts": 0,
                "certificate_prompts": 1,
                "certificate_tokens": 4,
                "bootstrap_samples": 100,
            },
        },
        "axes": {
            "loss": ["forward_kl"] if two_cells else ["forward_kl", "sft"],
            "mode": {
                "offline": {},
                "online": {"train.mode": "online", "train.online.stream": "replay", "train.online.update_interval": 3},
            },
        },
    }
    if not two_cells:
        values["grids"] = [{"loss": "forward_kl", "match": ["tokens", "steps"]}, {"loss": "sft"}]
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return folder / "study.yaml"


def call(home: Home, recipe: Path) -> subprocess.Popen[bytes]:
    """`draftbench study` in a home; its output goes to `output.txt` there."""
    home.root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DRAFTBENCH_HOME": str(home.root), "OMP_NUM_THREADS": "1"}
    with open(home.root / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", "study", str(recipe), "--yes", "--no-estimate"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )


def finish(process: subprocess.Popen[bytes], home: Home) -> None:
    """Wait for a study that must end well; its words are the message if it does not."""
    if process.wait(TIMEOUT_S) != 0:
        raise SystemExit(f"exit status {process.returncode}\n{(home.root / 'output.txt').read_text()[-3000:]}")
    ends = time.monotonic() + TIMEOUT_S
    while processes(home) and time.monotonic() < ends:  # the last job still brings the index up to date
        time.sleep(0.2)


def processes(home: Home) -> dict[str, psutil.Process]:
    """The home's live worker and job, found by the environment that they were started with."""
    roles = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            ours = "engine" in command and process.environ().get("DRAFTBENCH_HOME") == str(home.root.absolute())
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                words = command[command.index("engine") + 1 :]
                roles["worker" if words == ["work"] else "job" if words[:2] == ["run", "--resume"] else "study"] = (
                    process
                )
    return roles


def kill_all(home: Home) -> str:
    """SIGKILL to the command, the worker and the job at once; where the job was."""
    where = "between jobs"
    while alive := processes(home):  # again: a worker may have started a job while it was looked for
        for role, process in alive.items():
            if role == "job":
                with contextlib.suppress(Exception):
                    run = RunFolder(home.run(process.cmdline()[-1]))
                    where = run.status().phase or "start"
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
    return where


def work_done(home: Home) -> int:
    """Answers captured and training steps reported, repeated ones included: the clock that kills go by."""
    answers = sum(path.read_bytes().count(b"\n") for path in home.captures.glob("*/answers.jsonl"))
    return answers + sum(path.read_bytes().count(b'"kind": "train"') for path in home.runs.glob("*/events.jsonl"))


def break_and_resume(home: Home, recipe: Path, kills: int, whole_work: int, rng: random.Random) -> list[str]:
    """Kill the study as often as asked, then let it end; where each kill fell."""
    fell: list[str] = []
    while len(fell) < kills:
        process = call(home, recipe)
        # at most half of what is left for each: the work continues a little between the count and the kill
        until = work_done(home) + rng.randint(1, max(2, whole_work // (2 * (kills + 1))))
        ends = time.monotonic() + TIMEOUT_S
        while process.poll() is None and work_done(home) < until and time.monotonic() < ends:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        if process.poll() is not None:
            raise SystemExit(f"the study ended after {len(fell)} of {kills} kills: give it more work")
        fell.append(kill_all(home))
        process.wait()
        print(f"  kill {len(fell)}: {fell[-1]}", file=sys.stderr)
    finish(call(home, recipe), home)
    return fell


def results(home: Home, recipe: Path) -> dict[str, dict[str, Any]]:
    """What each finished cell has come to, by the cell's name; nothing rounded."""
    placed = look(home, expand(load_study(recipe), home).cells)
    return {one.cell.name: outcome(one.run.path) for one in placed if one.run is not None and one.state == "done"}


def outcome(run: Path) -> dict[str, Any]:
    """All that a run leaves but for clocks: by part, in a form that two can be compared in."""
    events = replay(read_events(run).events)
    return {
        "weights": {path.parent.name: sha256_file(path) for path in sorted(run.glob("draft/*/*.safetensors"))},
        "curve": [timeless(event.document()) for event in events if event.kind in ("train", "eval", "skipped")],
        "stream": [timeless(query.document()) for query in streamed_queries(events)],
        "effort": timeless(read_json(run / "training.json")),
        "metrics": read_json(run / "measure" / "summary.json")["metrics"],
        **{path.stem: _rows(path) for path in sorted(run.glob("measure/*.parquet"))},
    }


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    """Without the clock's."""
    return {key: value for key, value in values.items() if key not in ("at", "seconds")}


def _rows(table: Path) -> str:
    """Every row, the clock's columns left out, as text in which equal numbers, and only those, are equal."""
    rows = parquet.read_table(table)
    return repr(rows.select([name for name in rows.column_names if not name.endswith("_s")]).to_pylist())


def differing(mine: dict[str, Any] | None, theirs: dict[str, Any]) -> list[str]:
    """The parts in which a cell did not come to the same; all if it is not there."""
    return sorted(theirs) if mine is None else [p for p in sorted(theirs | mine) if mine.get(p) != theirs.get(p)]


def captures(home: Home) -> dict[str, Any]:
    """Captures by address: their answers in order and the hash of their signal."""
    return {
        folder.name: (list(read_lines(folder / "answers.jsonl")), sha256_file(folder / "signal.bin"))
        for folder in home.captures.iterdir()
    }


def measure(folder: Path, kills: int, prompts: int, epochs: int, two_cells: bool, seed: int) -> dict[str, Any]:
    """One study left alone, one killed; the figures."""
    recipe, cells = make_study(folder, prompts, epochs, two_cells), 2 if two_cells else CELLS
    whole, broken = Home(folder / "whole"), Home(folder / "broken")
    finish(call(whole, recipe), whole)
    whole_work = work_done(whole)
    fell = break_and_resume(broken, recipe, kills, whole_work, random.Random(seed))
    mine, theirs = results(broken, recipe), results(whole, recipe)
    runs = [RunFolder(path) for path in broken.runs.iterdir() if path.is_dir() and not path.name.startswith(".")]
    differs = {name: differing(mine.get(name), theirs[name]) for name in theirs}
    return {
        "kills": len(fell),
        "fell": dict(Counter(fell)),
        "seed": seed,
        "work": whole_work,
        "work_of_the_broken": work_done(broken),
        "cells": differs,
        "checks": {
            "every cell done": len(mine) == len(theirs) == cells,
            "each cell one run": len(runs) == cells and all(run.status().state == "done" for run in runs),
            "all that is no clock bit-identical": bool(differs) and not any(differs.values()),
            "captures byte-identical": captures(broken) == captures(whole),
            "steps done as asked": all(_steps_as_asked(run) for run in runs),
        },
    }


def _steps_as_asked(run: RunFolder) -> bool:
    training = Training.read_or_empty(run.path)
    return training.steps is not None and training.steps_done == training.steps


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark in a temporary folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how many")
    parser.add_argument("--prompts", type=int, default=24, help="training prompts")
    parser.add_argument("--epochs", type=int, default=5, help="of the offline cells")
    parser.add_argument("--two-cells", action="store_true", help="instead of six")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    with tempfile.TemporaryDirectory(prefix="kill-study-", ignore_cleanup_errors=True) as folder:
        figures = measure(Path(folder), **options)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        print("kills: " + ", ".join(f"{count} in {phase}" for phase, count in figures["fell"].items()))
        for name, differs in figures["cells"].items():
            print(f"NO  {name}: {', '.join(differs)} differ" if differs else f"ok  {name}")
        print("\n".join(f"{'ok' if ok else 'NO':4}{what}" for what, ok in figures["checks"].items()))
        print(f"a study killed {figures['kills']} times ends ", end="")
        print("as one left alone" if all(figures["checks"].values()) else "OTHERWISE than one left alone")
    return 0 if all(figures["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
