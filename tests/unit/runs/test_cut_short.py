"""The last words of a run whose process is ended in the middle of a call."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.config.reading import parse_recipe
from engine.distill.processes import ALONE, Processes
from engine.errors import DraftbenchError
from engine.paths import Home
from engine.runs import execution
from engine.runs.folder import RunFolder
from engine.runs.process import process_identity


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    prompts = {"train": "a.jsonl", "heldout": "b.jsonl"}
    run = RunFolder.create(Home(tmp_path), parse_recipe({"prompts": prompts}))
    run.set_status(state="running", **process_identity())
    return run


class Others(Processes):
    """The first of two processes, whose other one has failed, or whose connection is busy."""

    def __init__(self, failure: DraftbenchError | None, answers: bool = True) -> None:
        super().__init__(0, 2)
        self._known, self._answers = failure, answers

    def failure(self, *, aside: bool = False) -> DraftbenchError | None:
        assert aside  # the process itself may be waiting at its own connection
        if not self._answers:
            threading.Event().wait(60)
        return self._known


def test_a_process_that_is_ended_because_another_one_failed_says_why(run: RunFolder):
    execution._cut_short(run, Others(DraftbenchError("process 2 of 2 has ended: no such model", "it is not there")))
    status = run.status()
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.what == "process 2 of 2 has ended: no such model"


def test_one_that_somebody_stopped_is_cancelled(run: RunFolder):
    execution._cut_short(run, ALONE)
    assert (run.status().state, run.status().error) == ("cancelled", None)


def test_last_words_wait_for_no_connection(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "_ANSWER_S", 0.05)
    execution._cut_short(run, Others(None, answers=False))
    assert run.status().state == "cancelled"
