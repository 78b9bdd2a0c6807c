"""A run without its draft's weights: every command that needs them says what gives them, and never itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.export.export_run import export_run
from engine.jobs import queue
from engine.measure.decision import Decision
from engine.paths import home
from engine.records.status import Status
from engine.runs.advice import changes_of, gives_a_draft, measures_again
from engine.runs.drafts import draft_folder
from engine.runs.execution import measure_again
from engine.runs.folder import RunFolder
from engine.runs.pair import load_pair


@pytest.fixture
def bare(finished_home: Path) -> RunFolder:
    """A finished run as most samples are: measured, without the draft's weights."""
    run = RunFolder.open(home(), "latest")
    shutil.rmtree(run.path / "draft")
    return run


NEEDS: dict[str, Callable[[RunFolder, Path], object]] = {
    "measure": lambda run, out: measure_again(home(), run, []),
    "export": lambda run, out: export_run(home(), run, out / "exported", overwrite=False, check=False),
    "decode": lambda run, out: load_pair(home(), run_id=run.id),
    "start from": lambda run, out: draft_folder(home(), run.id),
}


@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_a_draft_that_is_not_here_names_the_command_that_makes_it(
    bare: RunFolder, name: str, tmp_path: Path
):
    with pytest.raises(DraftbenchError, match=f"run {bare.id} has no draft") as caught:
        NEEDS[name](bare, tmp_path)
    assert f"draftbench run {bare.path / 'config.yaml'}" in caught.value.fix
    assert "state is done" not in caught.value.why  # which explains nothing
    assert not list(tmp_path.glob("exported*"))


def test_a_damaged_summary_and_a_done_run_are_not_sent_to_a_measurement_that_cannot_be_made(bare: RunFolder):
    assert "draftbench measure" not in measures_again(bare)
    with pytest.raises(DraftbenchError, match="is done") as caught:
        queue.resume(home(), bare)
    assert "draftbench measure" not in caught.value.fix
    bare.summary_path.write_text("{", encoding="utf-8")
    with pytest.raises(DraftbenchError, match="is damaged") as caught:
        bare.summary()
    assert "draftbench measure" not in caught.value.fix


def test_what_would_change_a_verdict_names_the_run_and_a_command_that_it_can_be_given(finished_home: Path):
    run = RunFolder.open(home(), "latest")
    decision = Decision("not decided yet", (), ("time it: `draftbench measure RUN --set a=1`", "`draftbench show RUN`"))
    assert changes_of(decision, run) == (
        f"time it: `draftbench measure {run.id} --set a=1`",
        f"`draftbench show {run.id}`",
    )
    shutil.rmtree(run.path / "draft")
    assert changes_of(decision, run) == (
        f"time it: `draftbench run {run.path / 'config.yaml'} --set a=1` (trains it again: its weights are not here)",
        f"`draftbench show {run.id}`",
    )


@pytest.mark.parametrize(("state", "said"), [("failed", "run --resume"), ("running", "wait"), ("queued", "wait")])
def test_a_run_that_is_not_done_is_finished_or_waited_for(
    bare: RunFolder, state: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(RunFolder, "status", lambda self: Status(state=state))
    assert said in gives_a_draft(bare)
