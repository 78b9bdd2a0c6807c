"""The command line under torchrun, as a user types it, on a tiny target: one run, its end on a signal, its resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from engine.fileio import read_lines
from engine.paths import Home
from engine.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
WAIT_S = 240


@pytest.fixture
def recipe(tmp_path: Path, tiny_target_folder: Path) -> Path:
    """Some hundred steps of an adapter-free draft of two layers."""
    prompts = [{"prompt": f"What is {n} + {n}?"} for n in range(16)]
    for name, part in (("train", prompts[:12]), ("heldout", prompts[12:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in part), encoding="utf-8")
    values = {
        "name": "shared",
        "target": str(tiny_target_folder),
        "draft": {"layers": 2},
        "prompts": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
        "capture": {"max_new_tokens": 12},
        "train": {"epochs": 1000, "max_steps": 40, "batch_size": 4, "eval_prompts": 2, "eval_every": 1000},
        "measure": {"temperatures": [0.0]},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def started(home: Home, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DRAFTBENCH_HOME": str(home.root), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [*LAUNCHER, "-m", "engine", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)


def steps(home: Home) -> list[int]:
    return [
        event["step"]
        for path in home.runs.glob("*/events.jsonl")
        for event in read_lines(path)
        if event["kind"] == "train"
    ]


@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_killed_and_resumed(tmp_path: Path, recipe: Path):
    home = Home(tmp_path / "home")
    endless = ["--set", "train.max_steps=100000", "--set", "train.epochs=100000", "--set", "train.checkpoint_every=10"]
    process = started(home, "train", str(recipe), *endless)
    wait_for(lambda: len(steps(home)) > 5, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_S)
    (run,) = (RunFolder(path) for path in home.runs.iterdir())
    assert run.status().state == "cancelled"
    (checkpoint,) = (run.path / "checkpoints").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) == max(steps(home)) == len(steps(home))  # reported once

    process = started(home, "train", "--resume", run.id)
    wait_for(lambda: max(steps(home)) > int(checkpoint.name.removeprefix("step-")) + 15, process)
    others = [p for p in psutil.Process(process.pid).children() if p.pid != run.status().pid]
    (second,) = others
    second.kill()
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    status = run.status()
    assert status.state == "failed"
    assert status.error is not None
    assert "another one" in str(status.error), errors


@pytest.mark.slow
def test_a_whole_run_is_measured_once_and_the_others_are_silent(tmp_path: Path, recipe: Path):
    home = Home(tmp_path / "home")
    process = started(home, "train", str(recipe), "--json")
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert json.loads(output)["state"] == "done"  # one document
    (run,) = (RunFolder(path) for path in home.runs.iterdir())
    assert steps(home) == list(range(1, 41))
    training = json.loads((run.path / "training.json").read_text("utf-8"))
    assert training["steps_by_processes"] == {"2": 40}
    process = started(home, "show", run.id)
    assert "only `train` and `run`, where they work here, share theirs" in process.communicate(timeout=WAIT_S)[1]
    assert process.returncode != 0
