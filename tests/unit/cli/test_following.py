"""`run --on`: waiting for a run that is worked on elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.cli.text import following
from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.paths import Home
from engine.runs.folder import RunFolder

RECIPE = parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(following, "_POLL_S", 0.01)
    return RunFolder.create(Home(tmp_path), RECIPE, place="ray://head:1")


@pytest.mark.slow
def test_each_phase_is_said_once_until_the_run_is_done(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        for status in ({"phase": "capture"}, {"phase": "train"}, {"state": "done"}):
            run.set_status(**{"state": "running", "host": "n1", **status})
            moved.wait(0.3)

    moved = threading.Event()
    worker = threading.Timer(0.3, work)
    worker.start()
    following.follow(Home(run.path.parent.parent), run)
    worker.join()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["waiting at ray://head:1", "capture on n1", "train on n1"]


def test_a_run_that_failed_is_an_error_with_its_reason(run: RunFolder):
    run.set_status(state="failed", error={"what": "the node is full", "why": "", "fix": "empty it"})
    with pytest.raises(DraftbenchError, match="the node is full") as failed:
        following.follow(Home(run.path.parent.parent), run)
    assert failed.value.fix == "empty it"


def test_a_run_that_was_cancelled_is_an_error(run: RunFolder):
    run.set_status(state="cancelled")
    with pytest.raises(DraftbenchError, match="is cancelled"):
        following.follow(Home(run.path.parent.parent), run)


def test_why_a_run_waits_is_said(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    run.log("of an earlier session")
    words = "no node of the cluster has what the run asks for"

    def work() -> None:
        run.log(words)
        moved.wait(0.2)
        run.set_status(state="running", host="n1", phase="train")
        moved.wait(0.2)
        run.log("trained")
        run.set_status(state="done")

    moved = threading.Event()
    worker = threading.Timer(0.2, work)
    worker.start()
    following.follow(Home(run.path.parent.parent), run)
    worker.join()
    assert capsys.readouterr().err.splitlines() == ["waiting at ray://head:1", words, "train on n1"]


def test_a_log_is_read_from_the_first_look_on(run: RunFolder):
    log = following.NewLines()
    run.log("before")
    assert log.read(run) == []
    run.log("one")
    with open(run.path / "log.txt", "a", encoding="utf-8") as file:
        file.write("2026-01-01 00:00:00 half")
    assert log.read(run) == ["one"]
    log.forget(run)
    run.log(" a line")
    assert log.read(run) == []
