"""Removing a run: what is said before, the day in the trash, restoring, and what stays in the way."""

from __future__ import annotations

import errno
import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.paths import home
from engine.records.study_tag import study_tag
from engine.runs import trash
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import change_labels
from engine.runs.removing import removal_of, remove_run
from tests.unit.conftest import Draftbench
from tests.unit.runs.test_damaged import make
from workbench.runs import removed


def whole(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_removed_run_is_restored_as_it_was():
    run = make()
    before = whole(run.path)
    remove_run(home(), run)
    assert run_folders(home()) == []
    (removed,) = trash.removed_runs(home())
    assert (removed.run_id, removed.until - removed.removed_at) == (run.id, timedelta(hours=24))
    assert trash.restore(home(), run.id) == run.path
    assert whole(run.path) == before
    assert trash.removed_runs(home()) == []


def test_the_day_is_kept_and_then_swept():
    run = make()
    remove_run(home(), run)
    (removed,) = trash.removed_runs(home())
    assert trash.sweep(home(), removed.until - timedelta(seconds=1)) == []
    assert trash.sweep(home(), removed.until) == [run.id]
    assert os.listdir(trash.folder(home())) == []
    with pytest.raises(DraftbenchError, match="no removed run"):
        trash.restore(home(), run.id)


def test_a_sweep_finishes_what_a_kill_left_and_touches_nothing_of_others():
    remove_run(home(), make())
    (removed,) = trash.removed_runs(home())
    removed.path.rename(removed.path.with_name(f".deleting~{removed.path.name}"))  # killed after the renaming
    (trash.folder(home()) / "mine").mkdir()
    (trash.folder(home()) / "20261399T000000.000000~x").mkdir()  # no time
    assert trash.removed_runs(home()) == []
    trash.sweep(home(), datetime.now(UTC) + timedelta(days=400))
    assert sorted(os.listdir(trash.folder(home()))) == ["20261399T000000.000000~x", "mine"]


def test_removed_for_good_it_is_gone_at_once():
    run = make()
    remove_run(home(), run, for_good=True)
    assert os.listdir(trash.folder(home())) == []
    assert not run.path.exists()


def test_a_run_that_came_again_is_not_replaced():
    run = make()
    remove_run(home(), run)
    run.path.mkdir()
    (run.path / "new.txt").write_text("kept")
    with pytest.raises(DraftbenchError, match="there is a run"):
        trash.restore(home(), run.id)
    assert (run.path / "new.txt").read_text() == "kept"
    assert len(trash.removed_runs(home())) == 1


def removed_twice() -> RunFolder:
    """A run that was removed, made again under its id with other content, and removed again."""
    run = make()
    for text in ("first", "second"):
        run.path.mkdir(exist_ok=True)
        (run.path / "which.txt").write_text(text)
        remove_run(home(), run)
    return run


def test_of_two_removed_under_one_name_the_later_is_restored():
    run = removed_twice()
    trash.restore(home(), run.id)
    assert (run.path / "which.txt").read_text() == "second"


def test_each_row_of_the_list_restores_its_own_of_two_under_one_name():
    run = removed_twice()
    _, earlier = trash.removed_runs(home())
    assert removed._restore(earlier) == f"Restored {run.id}."
    assert (run.path / "which.txt").read_text() == "first"
    with pytest.raises(DraftbenchError, match="no removed run"):
        trash.restore(home(), run.id, earlier.removed_at)


def test_what_it_frees_counts_no_file_that_another_folder_shares(tmp_path: Path):
    run = make()
    alone = removal_of(home(), run).frees_bytes
    (run.path / "own.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "shared.bin").write_bytes(os.urandom(400_000))
    os.link(tmp_path / "shared.bin", run.path / "shared.bin")
    assert 100_000 <= removal_of(home(), run).frees_bytes - alone < 200_000


def test_what_depends_on_it_is_said():
    run, other = make("first"), make("second")
    assert removal_of(home(), run).remarks == ()
    change_labels(home(), run, baseline=True, tags=[study_tag("seeds")])
    (run.path / "export.json").write_text("{}")
    config = other.path / "config.yaml"
    text = config.read_text().replace("checkpoint: null", f"checkpoint: {run.path.absolute()}/draft/best", 1)
    config.write_text(text.replace("init: layers", "init: checkpoint", 1))
    assert "checkpoint: /" in config.read_text()
    from engine.index.ingest import ingest_all

    ingest_all(home())
    baseline, study, export, start = removal_of(home(), run).remarks
    assert "baseline" in baseline
    assert "seeds" in study
    assert "exported" in export
    assert other.id in start


def test_a_waiting_run_is_not_removed():
    run = make()
    run.set_status(state="queued", queued_at="2026-01-01T00:00:00+00:00")
    with pytest.raises(DraftbenchError, match="waits in a queue"):
        remove_run(home(), run)
    assert run.path.is_dir()


def test_a_full_disk_keeps_the_run_where_it_is(monkeypatch: pytest.MonkeyPatch):
    run = make()

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(DraftbenchError, match="disk is full"):
        remove_run(home(), run)
    assert run.path.is_dir()


def test_a_removed_run_is_named_by_the_beginning_of_its_id_as_any_other_is():
    runs = [make("mine-a"), make("mine-b")]
    for run in runs:
        remove_run(home(), run)
    with pytest.raises(DraftbenchError, match="no removed run 'mine'"):  # it could be either
        trash.restore(home(), "mine")
    assert trash.restore(home(), "mine-a") == runs[0].path
    assert trash.restore(home(), "mine") == runs[1].path  # the only one that is left


def test_the_commands_remove_list_and_restore(draftbench: Draftbench):
    run = make()
    said = draftbench("runs", "remove", run.id, "--yes", "--json").json()
    assert said["restorable"]
    assert said["frees_bytes"] > 0
    assert [row["run"] for row in draftbench("runs", "--deleted", "--json").json()] == [run.id]
    assert draftbench("runs", "--json").json() == []
    assert run.id in draftbench("runs", "--deleted").out
    assert "is restored" in draftbench("runs", "restore", run.id).out
    assert RunFolder.open(home(), run.id).path.is_dir()
    refused = draftbench("runs", "restore", run.id)
    assert (refused.code, "no removed run" in refused.err) == (2, True)


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_a_removal_that_nobody_confirms_is_refused_in_words(
    answer: str, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    run = make()
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    refused = draftbench("runs", "remove", run.id, "--json")
    assert (refused.code, "not confirmed" in refused.json()["error"]["what"]) == (2, True)
    assert "--yes" in refused.err
    assert run.path.is_dir()


def test_ctrl_c_at_the_question_is_a_stop(draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch):
    class Stopped(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            raise KeyboardInterrupt

    run = make()
    monkeypatch.setattr("sys.stdin", Stopped())
    stopped = draftbench("runs", "remove", run.id, "--json")
    assert (stopped.code, stopped.json()["error"]["what"]) == (130, "stopped")
    assert run.path.is_dir()
