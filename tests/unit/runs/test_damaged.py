"""One idea of what a run is, and damaged runs: reported, never in the way, and always possible to get rid of."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.index.ingest import ingest_all
from engine.jobs import queue
from engine.paths import home, run_id_of
from engine.planning.doctor import _runs
from engine.planning.earlier_runs import _measure_seconds
from engine.records.events import Resumed, TrainStep, replay
from engine.records.recipe import read_recipe
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import change_labels, read_labels
from engine.runs.listing import list_runs
from engine.runs.process import process_identity
from engine.runs.removing import remove_run
from tests.unit.conftest import Draftbench


def make(name: str = "demo", **status: object) -> RunFolder:
    recipe = parse_recipe({"name": name, "prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})
    return RunFolder.create(home(), recipe, **status)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["{} (copy)", "-rf", "a..b", "naïve", "100%", "a\nb", "x" * 200, "_old"])
def test_a_folder_of_any_name_is_one_run_for_all(name: str):
    run = make()
    copy = run.path.with_name(name.format(run.id))
    shutil.copytree(run.path, copy)
    known = run_id_of(copy.name)
    assert {one.id for one in run_folders(home())} == {run.id, known}
    assert {row["run"] for row in list_runs(home())} == {run.id, known}
    assert set(ingest_all(home()).unchanged) == {run.id, known}
    assert all(check.ok for check in _runs(home()))
    for given in (known, copy.name):
        assert RunFolder.open(home(), given).path == copy
    assert RunFolder.open(home(), "latest").path in (run.path, copy)
    assert home().run(known) == copy
    remove_run(home(), RunFolder.open(home(), known))
    assert [row["run"] for row in list_runs(home())] == [run.id]


def test_the_doctor_waits_for_a_run_at_work_and_not_for_a_finished_one():
    ingest_all(home())
    make("working").set_status(state="running", **process_identity())
    index = _runs(home())[0]
    assert (index.ok, index.condition) == (True, "0 of 1 runs; 1 at work, whose files change")
    make("finished").set_status(state="done")
    assert not _runs(home())[0].ok


def test_a_folder_whose_name_is_not_utf8_is_a_run_too():
    run = make()
    os.rename(run.path, os.fsencode(run.path.parent) + b"/\xff\xfe")
    (row,) = list_runs(home())
    assert row["run"] == "%FF%FE"
    assert RunFolder.open(home(), "%FF%FE").recipe().name == "demo"


def test_a_copy_of_a_run_at_work_is_not_at_work_and_does_not_wait():
    run, waits = make(), make("waits", queued_at="2026-01-01")
    run.set_status(state="running", **process_identity())
    copies = [Path(shutil.copytree(one.path, one.path.with_name(f"{one.id}-copy"))) for one in (run, waits)]
    assert run.status().state == "running"
    assert [RunFolder(copy).status().state for copy in copies] == ["interrupted", "interrupted"]
    assert [one.id for one in queue.waiting(home())] == [waits.id]
    with pytest.raises(DraftbenchError, match="interrupted"):
        RunFolder(copies[0]).ask_to_stop()
    assert {row["run"]: row["state"] for row in list_runs(home())}[copies[0].name] == "interrupted"


@pytest.mark.parametrize("pid", [float("inf"), 2**70, -1, 0, True, "1", None, [1], 10**400, float("nan")])
def test_what_is_no_process_is_not_alive(pid: object):
    run = make()
    for odd in ({"pid": pid, "pid_started": 1.0}, {"pid": os.getpid(), "pid_started": pid}):
        (run.path / "status.json").write_text(json.dumps({"state": "running", **odd}))
        assert run.status().state == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"state": ["queued"], "queued_at": "x"}',
        b'{"state": "melted"}',
        b"\xff",
        b"1" * 5000,
    ],
)
def test_a_damaged_status_stops_neither_queue_nor_list(content: bytes):
    bad, good = make("bad"), make("good", queued_at="2026-01-01")
    (bad.path / "status.json").write_bytes(content)
    assert bad.status().state == "damaged"
    assert [run.id for run in queue.waiting(home())] == [good.id]
    assert queue.at_work(home()) is None
    rows = {row["run"]: row for row in list_runs(home())}
    assert (rows[good.id]["state"], rows[bad.id]["state"]) == ("queued", "damaged")
    assert "status.json" in rows[bad.id]["problem"]


def test_a_job_that_cannot_be_started_fails_and_the_next_one_gets_its_turn(monkeypatch: pytest.MonkeyPatch):
    first, second = make("first", queued_at="2026-01-01"), make("second", queued_at="2026-01-02")
    os.mkfifo(first.path / "output.txt")  # to write to it would wait for a reader
    started = []
    monkeypatch.setattr(queue, "start_detached", lambda of_home, command, output: started.append(command) or _Ended())
    assert queue._take(home()) is not None
    assert started == [queue.job_command(second.id)]
    assert first.status().state == "failed"
    assert "not a file" in first.status().error.what


class _Ended:
    pid = 2**22 + 1  # above every process id of Linux


@pytest.mark.parametrize(
    "note", ['{"run": "../x", "queued_at": "x", "output_from": 0}', '{"run": [1]}', "[]", "[" * 9999]
)
def test_a_note_of_the_last_job_that_makes_no_sense_counts_for_none(note: str):
    make()
    (home().root / "queue.json").write_text(note)
    assert queue._last_job(home()) is None
    queue._settle(home())


def test_a_status_is_read_again_when_it_was_replaced_by_one_of_the_same_size_and_time():
    run = make()
    run.set_status(state="running")
    path = run.path / "status.json"
    before, text = path.stat(), path.read_text()
    assert run.status().state == "interrupted"
    other = path.with_name("other")
    other.write_text(text.replace('"running"', '"queued" '))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)
    assert run.status().state == "queued"


def test_damaged_labels_do_not_keep_a_run_from_being_archived():
    run = make()
    (run.path / "labels.json").write_text("[1]")
    assert change_labels(home(), run, archived=True).archived
    assert read_labels(run).archived
    assert (run.path / "labels.json.damaged").read_text() == "[1]", "what was there is kept"


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path):
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    home().runs.mkdir(parents=True)
    (home().runs / "link").symlink_to(other)
    remove_run(home(), RunFolder.open(home(), "link"))
    assert (other / "thesis.txt").read_text() == "years"
    assert run_folders(home()) == []


def test_a_run_at_work_is_not_removed():
    run = make()
    with run.working(), pytest.raises(DraftbenchError, match="being worked on"):
        remove_run(home(), run)
    assert run.path.is_dir()


@pytest.mark.slow
def test_the_commands_name_a_damaged_run_and_get_rid_of_it(draftbench: Draftbench):
    good, bad = make("good"), make("bad")
    (bad.path / "config.yaml").write_text("")
    rows = {row["run"]: row for row in draftbench("runs", "--json").json()}
    assert (rows[good.id]["problem"], rows[bad.id]["state"]) == ("", "damaged")
    assert "config.yaml" in rows[bad.id]["problem"]
    for command in (("index",), ("index", "--rebuild")):
        done = draftbench(*command, "--json")
        assert (done.code, list(done.json()["damaged"])) == (0, [bad.id])
    assert draftbench("show", bad.id).code == 0
    assert bad.id in draftbench("doctor").out.replace("\n", "")
    assert draftbench("runs", "archive", bad.id).code == 0
    assert read_labels(bad).archived
    assert draftbench("runs", "remove", bad.id, "--yes").code == 0
    assert [row["run"] for row in draftbench("runs", "--json").json()] == [good.id]
    assert ingest_all(home()).removed == []


def test_a_recipe_of_a_run_is_read_as_it_stands_and_nothing_beside_it():
    run = make()
    text = (run.path / "config.yaml").read_text()
    for damage in (
        f"{text}base: /dev/zero\n",
        f"{text}name: twice\n",
        "a: &a [1]\nb: *a\n",
        "[" * 100_000,
        "- " * 100_000,
    ):
        (run.path / "config.yaml").write_text(damage)
        began = time.monotonic()
        with pytest.raises(DraftbenchError):
            read_recipe(run.path)
        assert time.monotonic() - began < 30


def test_a_run_that_named_a_version_without_use_stays_readable():
    run = make()
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("revision: null", "revision: v1", 1))
    assert run.recipe().target.revision == "v1"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["status.json", "labels.json", "config.yaml", "events.jsonl"])
def test_nothing_waits_for_a_pipe_or_reads_a_device(name: str):
    run = make()
    for make_file in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path.name)):
        (run.path / name).unlink(missing_ok=True)
        make_file(run.path / name)
        assert len(list_runs(home())) == 1
        assert _measure_seconds(run) is None
        assert RunFolder.open(home(), "latest").id == run.id


def test_json_is_bounded_in_size_depth_and_characters(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text('{"\\ud800": ["\\udfff", "\\ud83d\\ude00"]}')
    assert read_json(path) == {"?": ["?", "😀"]}
    for content in ("[" * 65 + "]" * 65, "9" * 5000, "[" * 100_000):
        path.write_text(content)
        with pytest.raises(DraftbenchError, match="not valid JSON"):
            read_json(path)
    path.write_text(json.dumps({"a": [1] * 100}))
    with pytest.raises(DraftbenchError, match="at most 10 are read"):
        read_json(path, most=10)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


@pytest.mark.slow
def test_events_of_a_run_that_was_resumed_very_often_are_read_in_a_moment():
    events = [Resumed(step=1), TrainStep(step=2, loss=1.0)] * 20_000
    began = time.monotonic()
    assert len([event for event in replay(events) if isinstance(event, TrainStep)]) == 1
    assert time.monotonic() - began < 30


def test_an_archived_run_is_listed_only_if_asked_for(draftbench: Draftbench, tmp_path: Path):
    kept, hidden = make("kept"), make("hidden")
    hidden.set_status(state="done")
    assert draftbench("runs", "archive", hidden.id).code == 0
    assert [row["run"] for row in draftbench("runs", "--json").json()] == [kept.id]
    shown = draftbench("runs").out
    assert (hidden.id in shown, "1 archived run not listed" in shown) == (False, True)
    assert hidden.id in draftbench("runs", "--archived").out
    assert {row["run"] for row in draftbench("runs", "--archived", "--json").json()} == {kept.id, hidden.id}
    assert [row["run"] for row in draftbench("runs", "--where", "state = 'queued'", "--json").json()] == [kept.id]
    hidden.set_status(state="running", **process_identity())
    assert len(draftbench("runs", "--json").json()) == 2  # somebody keeps the machine busy
    home().index.unlink()
    home().index.mkdir()  # then the folders are read
    assert [row["archived"] for row in list_runs(home())].count(True) == 1


def test_labels_of_a_newer_version_are_neither_lost_nor_called_damaged():
    run, text = make(), json.dumps({"schema": 99, "title": "precious", "tags": ["x"], "stars": 5})
    (run.path / "labels.json").write_text(text)
    with pytest.raises(DraftbenchError, match="a newer Draftbench wrote it"):
        change_labels(home(), run, archived=True)
    assert (run.path / "labels.json").read_text() == text


def test_a_status_of_a_newer_version_is_not_overwritten():
    run, text = make(), json.dumps({"schema": 99, "state": "done", "verdict": "new"})
    (run.path / "status.json").write_text(text)
    assert run.status().state == "damaged"
    with pytest.raises(DraftbenchError, match="a newer Draftbench wrote it"):
        queue.requeue(home(), run)
    assert (run.path / "status.json").read_text() == text
