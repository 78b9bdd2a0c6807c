"""The process of a run on a node ends with whoever started it, even before its work begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from engine.cluster.node_actor import _clear_abandoned
from engine.cluster.shared_home import sees_home
from engine.config.reading import parse_recipe
from engine.paths import PROJECT_ROOT, Home
from engine.runs.folder import RunFolder

RECIPE = parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})


@pytest.mark.slow
def test_it_ends_at_once_when_the_pipe_closes(tmp_path: Path):
    run = RunFolder.create(Home(tmp_path), RECIPE)
    with FileLock(run.path / ".lock"):  # it waits for the lock, as beside a process that is just leaving
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.cluster.worker", run.id],
            stdin=subprocess.PIPE,
            cwd=PROJECT_ROOT,
            env={**os.environ, "DRAFTBENCH_HOME": str(tmp_path)},
        )
        time.sleep(0.5)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == -signal.SIGKILL
    assert run.status().state == "queued"


def test_a_home_is_the_same_only_if_its_token_is(tmp_path: Path):
    (tmp_path / "places").mkdir()
    (tmp_path / "places" / "token").write_text("abc")
    assert sees_home(tmp_path, "abc")
    assert not sees_home(tmp_path, "abd")
    assert not sees_home(tmp_path / "elsewhere", "abc")


def test_homes_of_killed_actors_are_removed_and_others_are_not(tmp_path: Path):
    for name in ("dead", "alive"):
        (tmp_path / name / "runs").mkdir(parents=True)
        (tmp_path / f"{name}.alive").touch()
    with FileLock(tmp_path / "alive.alive"):
        _clear_abandoned(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["alive", "alive.alive"]
