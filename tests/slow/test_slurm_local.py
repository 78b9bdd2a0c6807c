"""Runs as submitit jobs of this machine: one is killed, one cancelled and resumed; nothing is doubled, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cluster import slurm_lost, slurm_place
from engine.cluster.slurm_jobs import local_controller
from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.fileio import read_lines
from engine.paths import home
from engine.records.events import TrainStep, read_events
from engine.records.slurm_job import SlurmJob
from engine.runs.folder import RunFolder

PLACE = slurm_place.place("slurm://?executor=local")


@pytest.fixture
def recipes(tmp_path: Path, tiny_target_folder: Path) -> list[Recipe]:
    """Three runs that share their captures, of so many steps that each can be stopped in the middle."""
    for name, count in (("train", 12), ("heldout", 6)):
        rows = [{"id": f"{name}{i}", "prompt": f"{name}: {i} plus {i * i}?"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {"speed_prompts": 0, "certificate_prompts": 1, "certificate_tokens": 2, "trace_prompts": 1}
    return [
        parse_recipe(
            {
                "name": f"run{seed}",
                "target": {"model": str(tiny_target_folder), "dtype": "float32", "device": "cpu"},
                "draft": {"init": "random", "layers": 1},
                "prompts": {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "heldout")},
                "capture": {"max_new_tokens": 12, "batch_size": 4},
                "train": {"seed": seed, "epochs": 200, "batch_size": 4, "eval_every": 600, "eval_prompts": 2}
                | {"checkpoint_every": 5},
                "measure": {"max_new_tokens": 8, "temperatures": [0.0], **quick},
            }
        )
        for seed in range(3)
    ]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slurm_place, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(slurm_lost, "_SETTLED_S", 0.0)
    yield
    for path in home().runs.glob("*"):
        if controller := local_controller(job(RunFolder(path))):
            for process in (*controller.children(recursive=True), controller):
                process.kill()


def job(run: RunFolder) -> str:
    return SlurmJob.read_or_empty(run.path).job


def steps(run: RunFolder) -> list[int]:
    return [event.step for event in read_events(run.path).events if isinstance(event, TrainStep)]


def until(true: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        PLACE.wake(home())
        if value := true():
            return value
        time.sleep(0.1)
    states = {path.name: (RunFolder(path).status(), list((path / "log.txt").open())) for path in home().runs.glob("*")}
    raise AssertionError(f"it did not come to {what}: {states}")


@pytest.mark.slow
def test_runs_survive_a_kill_and_a_cancel(recipes: list[Recipe]):
    runs = PLACE.submit_all(home(), recipes)
    assert len({SlurmJob.read_or_empty(run.path).after for run in runs}) == 1  # one job makes their captures
    killed, cancelled, _ = runs
    first = job(killed)
    (extra,) = PLACE.submit_all(home(), [recipes[0].model_copy(update={"name": "extra"})])
    PLACE.cancel(home(), extra)  # not at work yet
    assert (extra.status().state, local_controller(job(extra))) == ("cancelled", None)
    shutil.rmtree(extra.path)
    until(lambda: all(len(steps(run)) > 10 for run in (killed, cancelled)), "two runs that train")

    pid = killed.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: job(killed) != first, "a run that is submitted again")
    assert SlurmJob.read_or_empty(killed.path).lost == 1

    PLACE.cancel(home(), cancelled)
    until(lambda: cancelled.status().state == "cancelled", "a run that stops at a safe point")
    PLACE.resume(home(), cancelled)

    until(lambda: all(run.status().state in ("done", "failed") for run in runs), "the end")
    assert [run.status().state for run in runs] == ["done"] * 3
    assert len(list(home().runs.glob("[!.]*"))) == 3
    for run in runs:
        assert run.summary_path.exists()
        assert set(steps(run)) == set(range(1, 601))
    assert len(steps(cancelled)) == 600  # a stop at a safe point loses no step
    captures = {folder: [line["id"] for line in read_lines(folder / "answers.jsonl")] for folder in captured()}
    assert len(captures) == 2
    assert all(len(ids) == len(set(ids)) for ids in captures.values())


def captured() -> list[Path]:
    return [folder for folder in home().captures.glob("[!.]*") if (folder / "done.json").exists()]
