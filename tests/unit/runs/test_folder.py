"""A run's folder: names, states, the one process at work, a status that is believed only while its process lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import psutil
import pytest

from engine.config.reading import load_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import read_lines
from engine.paths import home
from engine.records.events import TrainStep
from engine.records.status import Status, StopNote
from engine.records.summary import Summary
from engine.runs.folder import RunFolder, run_folders
from engine.runs.process import is_alive, present_state, process_identity


@pytest.fixture
def made(recipe: Path) -> Recipe:
    return load_recipe(recipe)


def create(made: Recipe, created_at: str = "") -> RunFolder:
    run = RunFolder.create(home(), made)
    if created_at:
        run.set_status(created_at=created_at)
    return run


def test_a_run_is_named_by_its_id_its_beginning_or_its_age(made: Recipe):
    old, new = create(made, "2026-01-01T00:00:00"), create(made, "2026-01-02T00:00:00")
    other = create(made.model_copy(update={"name": "other"}), "2026-01-03T00:00:00")
    assert RunFolder.open(home(), old.id).path == old.path
    assert RunFolder.open(home(), "oth").id == other.id
    assert [RunFolder.open(home(), name).id for name in ("latest", "latest~1", "latest~2")] == [
        other.id,
        new.id,
        old.id,
    ]
    assert [run.id for run in run_folders(home())] == [other.id, new.id, old.id]


@pytest.mark.parametrize(
    ("name", "word"),
    [("tiny", "the beginning of 2 runs"), ("tiny-nothing", "did you mean tiny-"), ("latest~2", "there are 2 runs")],
)
def test_an_unclear_name_is_refused_with_what_is_near(made: Recipe, name: str, word: str):
    create(made), create(made)
    with pytest.raises(DraftbenchError, match=word):
        RunFolder.open(home(), name)


def test_a_runs_whole_name_is_clear_beside_longer_names(made: Recipe):
    long = create(made.model_copy(update={"name": "tiny-biology"}))
    run = create(made)
    assert RunFolder.open(home(), "tiny").id == run.id
    assert RunFolder.open(home(), "tiny-b").id == long.id
    with pytest.raises(DraftbenchError, match="the beginning of 2 runs") as refused:
        RunFolder.open(home(), "tin")
    assert all(one.id in refused.value.fix for one in (run, long))


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "..", "/tmp"])
def test_a_name_cannot_leave_the_folder_of_runs(made: Recipe, name: str):
    create(made)
    with pytest.raises(DraftbenchError, match="not a valid name"):
        RunFolder.open(home(), name)
    assert not RunFolder.exists(home(), name)


def test_the_first_run_is_asked_for_where_there_is_none():
    with pytest.raises(DraftbenchError, match=r"draftbench run recipes/quickstart\.yaml"):
        RunFolder.open(home(), "latest")
    assert run_folders(home()) == []


def test_the_recipe_comes_back_as_it_was(made: Recipe):
    assert create(made).recipe() == made


def test_two_workers_on_one_run_are_one_too_many(made: Recipe):
    run = create(made)
    with run.working():
        assert run.status().state == "running"
        with pytest.raises(DraftbenchError, match=f"process {os.getpid()}"), RunFolder(run.path).working():
            pass
    with run.working():
        pass  # the lock was given up


def test_a_running_run_whose_process_is_gone_was_interrupted(made: Recipe):
    run = create(made)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = psutil.Process(child.pid).create_time()
    run.set_status(state="running", pid=child.pid, pid_started=started)
    assert run.status().state == "running"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert run.status().state == "interrupted"


def test_a_finished_child_that_nobody_waited_for_is_not_alive(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    status = Status(state="running", pid=child.pid, pid_started=psutil.Process(child.pid).create_time())
    assert is_alive(status.pid, status.pid_started)
    assert child.stdin is not None
    child.stdin.close()  # it ends; without a wait it stays as a zombie
    until = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child.pid, 0)  # still answers
    assert not is_alive(status.pid, status.pid_started)
    assert present_state(status, tmp_path) == "interrupted"
    child.wait()


def test_a_later_process_with_the_same_number_is_another_one(tmp_path: Path):
    process = Status(**process_identity())
    assert process.pid_started is not None
    assert is_alive(process.pid, process.pid_started)
    assert not is_alive(process.pid, process.pid_started - 60)
    assert not is_alive(None, None)
    assert present_state(Status(state="done", pid=1, pid_started=0.0), tmp_path) == "done"


def test_a_damaged_status_is_reported_and_begun_anew(made: Recipe):
    run = create(made)
    for damage in (b'{"state": "run', b"\xff\x00", b"[1]"):
        (run.path / "status.json").write_bytes(damage)
        assert run.status().state == "damaged"
    run.set_status(state="done")
    assert run.status().state == "done"


def test_progress_alone_rewrites_the_status_rarely(made: Recipe):
    run = create(made)
    run.heartbeat({"phase": "train", "done": 0})
    run.heartbeat({"phase": "train", "done": 1})
    assert run.status().progress.done == 0
    run._beat -= 10
    run.heartbeat({"phase": "train", "done": 2})
    assert run.status().progress.done == 2
    run.heartbeat({"phase": "measure", "done": 0})
    assert run.status().phase == "measure", "a new phase is reported at once"


def test_a_torn_last_event_does_not_take_the_next_one_with_it(made: Recipe):
    run = create(made)
    run.emit(TrainStep(step=1))
    with open(run.path / "events.jsonl", "ab") as file:
        file.write(b'{"kind": "train", "st')
    run.emit(TrainStep(step=2))
    assert [event["step"] for event in read_lines(run.path / "events.jsonl")] == [1, 2]


def test_only_a_running_run_is_asked_to_stop(made: Recipe):
    run = create(made)
    with pytest.raises(DraftbenchError, match="queued"):
        run.ask_to_stop()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run.set_status(state="running", pid=child.pid, pid_started=psutil.Process(child.pid).create_time())
    assert run.ask_to_stop() == child.pid
    assert child.wait() == -signal.SIGTERM


def test_a_process_that_was_asked_long_ago_and_hears_nothing_is_killed(made: Recipe):
    run = create(made)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        run.set_status(state="running", pid=child.pid, pid_started=psutil.Process(child.pid).create_time())
        run.ask_to_stop()
        run.ask_to_stop()  # once more, a moment later: it may still be at its end
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        long_ago = (datetime.now(UTC) - timedelta(seconds=11)).isoformat()
        StopNote(pid=child.pid, asked_at=long_ago).write(run.path)
        run.ask_to_stop()
        assert child.wait(30) == -signal.SIGKILL


def test_a_summary_that_is_absent_or_damaged_names_the_command_that_makes_it(made: Recipe):
    run = create(made)
    with pytest.raises(DraftbenchError, match=f"draftbench run --resume {run.id}"):
        run.summary()
    run.summary_path.parent.mkdir()
    run.summary_path.write_text("{", encoding="utf-8")
    (run.path / "draft" / "best").mkdir(parents=True)
    for name in ("draft.json", "draft.safetensors"):  # or there is nothing to measure
        (run.path / "draft" / "best" / name).write_text("{}", encoding="utf-8")
    with pytest.raises(DraftbenchError, match=f"draftbench measure {run.id}"):
        run.summary()
    run.summary_path.write_text(json.dumps({"metrics": []}), encoding="utf-8")
    assert run.summary() == Summary(metrics=[])


def test_a_run_that_was_asked_to_stop_says_since_when_until_it_ends(made: Recipe):
    run = create(made)
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        with run.working():
            assert "stop_asked_at" not in run.status()
            run.ask_to_stop()
            since = run.status().stop_asked_at
            run.heartbeat({"phase": "train", "done": 0})  # the process at work knows nothing of the note and keeps it
            run.ask_to_stop()  # once more: at once
            assert run.status().stop_asked_at == since
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(asked) == 2
    assert not (run.path / "stop.json").exists()


def test_a_note_for_an_earlier_process_asks_nothing_of_this_one(made: Recipe):
    run = create(made)
    with run.working():
        (run.path / "stop.json").write_text('{"pid": 1, "asked_at": "2026-01-01"}')
        assert "stop_asked_at" not in run.status()
        (run.path / "stop.json").write_text("[")
        assert run.status().state == "running"


def elsewhere(made: Recipe, **status: str) -> RunFolder:
    """A running run whose process this machine does not have."""
    run = create(made)
    run.set_status(state="running", pid=1, pid_started=1.0, **status)
    return run


@pytest.mark.parametrize("status", [{"host": "another-machine"}, {"place": "ray://head:1"}])
def test_a_run_of_another_machine_is_running_while_its_status_is_written(made: Recipe, status: dict[str, str]):
    run = elsewhere(made, **status)
    assert run.status().state == "running"
    long_ago = time.time() - 600
    os.utime(run.path / "status.json", (long_ago, long_ago))
    assert run.status().state == "interrupted"


def test_a_process_of_another_machine_is_not_asked_to_stop(made: Recipe, monkeypatch: pytest.MonkeyPatch):
    """Its number may be that of a process here."""
    run = elsewhere(made, host="another-machine")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process of this machine was asked"))
    with pytest.raises(DraftbenchError, match="another-machine"):
        run.ask_to_stop()


def test_a_run_of_this_machine_is_interrupted_as_soon_as_its_process_is_gone(made: Recipe):
    assert elsewhere(made).status().state == "interrupted"


def test_a_run_goes_on_when_the_clock_of_its_machine_is_set(made: Recipe, monkeypatch: pytest.MonkeyPatch):
    run = create(made)
    with run.working():
        stepped = (run.status().pid_started or 0.0) - 3600.0
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: stepped)
        assert run.status().state == "running"
    assert run.status().state == "interrupted"  # the process lives, but does not work on it any more


def test_runs_that_draw_the_same_digits_get_other_ones(made: Recipe, monkeypatch: pytest.MonkeyPatch):
    drawn = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("engine.runs.folder.secrets.token_hex", lambda size: next(drawn))
    monkeypatch.setattr("engine.runs.folder.datetime", Frozen)
    assert [create(made).id[-4:], create(made).id[-4:]] == ["aaaa", "bbbb"]


class Frozen(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Frozen:
        return cls(2026, 1, 1, tzinfo=tz)


def test_a_whole_id_does_not_name_a_copy_with_a_longer_name(made: Recipe):
    run = create(made)
    copy = run.path.rename(run.path.with_name(f"{run.id}-backup"))
    with pytest.raises(DraftbenchError, match="unknown run") as refused:
        RunFolder.open(home(), run.id)
    assert copy.name in refused.value.fix
    assert RunFolder.open(home(), f"{run.id}-b").path == copy
    assert RunFolder.open(home(), run.id[:-1]).path == copy
