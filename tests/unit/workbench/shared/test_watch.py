"""The marks by which an open page knows that what it shows has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.fileio import append_line, write_json
from engine.paths import home
from engine.runs.process import now, process_identity
from workbench.shared import watch


@pytest.fixture(autouse=True)
def looked_just_now() -> None:
    watch._looked.clear()


def at_work(name: str, phase: str = "train", **status: Any) -> Path:
    folder = home().runs / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "status.json", {"state": "running", "phase": phase, **process_identity(), **status})
    return folder


def marks(*run_ids: str) -> dict[str, Any]:
    return {key: mark for key, mark in watch.marks(home(), run_ids).items() if key != "clock"}


def test_each_mark_changes_with_its_file_alone():
    folder = at_work("one")
    before = marks("one")
    assert marks("one") == before
    append_line(folder / "events.jsonl", {"kind": "started"})
    events = marks("one")
    assert {key for key in before if before[key] != events[key]} == {"events"}
    at_work("one", updated_at=now())
    assert {key for key in before if events[key] != marks("one")[key]} == {"status"}
    (folder / "log.txt").write_text("a line")
    assert marks("one")["log"] != events["log"]


def test_an_end_changes_the_state_also_without_a_word():
    at_work("one")
    assert marks("one")["states"] == {"one": "running"}
    before = marks("one")["state"]
    at_work("one", pid=2**22 + 1, pid_started=1.0)  # its process is gone
    assert marks("one")["states"] == {"one": "interrupted"}
    assert marks("one")["state"] != before


def test_a_new_run_changes_the_folder_of_runs():
    at_work("one")
    before = marks()["runs"]
    at_work("two")
    assert marks()["runs"] != before


def test_pages_of_other_runs_rest_while_one_times():
    at_work("one")
    at_work("two", "speed")
    assert marks("one")["timing"]
    assert marks()["timing"]
    at_work("two", "certificate")
    assert not marks("one")["timing"]


def test_the_address_answers_for_runs_of_this_home_alone(tmp_path: Path):
    at_work("one")
    (tmp_path / "secret").mkdir()
    client = TestClient(Starlette(routes=[Route(watch.PATH, watch.answer)]))
    reply = client.get(watch.PATH, params={"run": ["one", "../../secret", "no-such-run", ""]})
    assert reply.status_code == 200
    assert reply.json()["states"] == {"one": "running"}
    assert reply.headers["cache-control"] == "no-store"
    assert client.get(watch.PATH, params={"run": ["one"] * 500}).status_code == 200
