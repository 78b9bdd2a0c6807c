"""The quick look for changed runs misses nothing that the full look sees, but what is edited in place for a while."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from engine.index import changes
from engine.index.changes import Differences, differences
from engine.index.connection import reading
from engine.index.ingest import ingest_all
from engine.paths import home
from engine.runs.folder import RunFolder
from engine.runs.labels import change_labels
from tests.unit.runs.test_damaged import make


def quick() -> list[str]:
    with reading(home().index) as con:
        return differences(con, home(), quick=True).changed


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """A finished run that a quick look remembers, as one does of folders that are some seconds old."""
    monkeypatch.setattr(changes, "_SETTLED_NS", -1)
    monkeypatch.setattr(changes, "_TURNS", 1_000)
    changes._seen.clear()
    run = make()
    run.set_status(state="done")
    (run.path / "measure").mkdir()
    ingest_all(home())
    assert quick() == []
    yield run
    changes._seen.clear()


def test_an_unchanged_run_is_not_looked_at_file_by_file(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changes, "fingerprint", lambda folder: pytest.fail("its files were looked at"))
    assert quick() == []


def test_what_is_replaced_is_seen_at_once(run: RunFolder):
    change_labels(home(), run, title="new")
    assert quick() == [run.path.name]
    ingest_all(home())
    assert quick() == []
    (run.path / "measure" / "prompts.parquet").write_bytes(b"x")
    assert quick() == [run.path.name]


@pytest.mark.slow
def test_what_is_edited_in_place_is_seen_in_its_turn(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    with open(run.path / "config.yaml", "a", encoding="utf-8") as file:
        file.write("# a remark\n")
    assert quick() == []
    monkeypatch.setattr(changes, "_TURNS", 30)
    assert any(quick() for _ in range(30))


def test_an_unfinished_run_is_looked_at_each_time(run: RunFolder):
    run.set_status(state="running")
    ingest_all(home())
    assert quick() == []
    with open(run.path / "events.jsonl", "a", encoding="utf-8") as file:
        file.write("{}\n")
    assert quick() == [run.path.name]


def test_what_changed_a_moment_ago_is_not_remembered(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    """Within one tick of the clock a folder can change twice and keep its time."""
    monkeypatch.setattr(changes, "_SETTLED_NS", 2_000_000_000)
    changes._seen.clear()
    os.utime(run.path / "measure")
    assert quick() == []
    assert changes._seen[str(home().runs.absolute())].stamps == {}


def test_a_removed_and_a_new_folder_are_seen(run: RunFolder):
    copy = run.path.with_name("copy")
    shutil.copytree(run.path, copy)
    assert quick() == ["copy"]
    shutil.rmtree(run.path)
    with reading(home().index) as con:
        assert differences(con, home(), quick=True) == Differences(changed=["copy"], gone=[run.id])
