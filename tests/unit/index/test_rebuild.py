"""An index that is made anew: equal, whole while others write, and over a damaged or an old one."""

import os
import threading

import duckdb
import pandas as pd
import pytest

from engine.index import ingest, queries
from engine.index.connection import reading, writing
from engine.index.ingest import ingest_all, ingest_run, rebuild
from engine.index.schema import RUN_TABLES
from engine.paths import Home
from engine.records.summary import Summary
from tests.unit.index.run_folders import WHOLE, counts, make_run, table

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home [1] *" / "draft=other")  # names that globbing and hive partitions would trip over


def test_rebuild_equals_what_ingest_made(home):
    for number in range(3):
        make_run(home, f"run-{number}")
    ingest_all(home)
    before = {name: table(home, name) for name in RUN_TABLES}
    assert sorted(rebuild(home).written) == ["run-0", "run-1", "run-2"]
    for name, frame in before.items():
        pd.testing.assert_frame_equal(table(home, name), frame)
    assert sorted(path.name for path in home.root.iterdir()) == ["index.duckdb", "index.duckdb.lock", "runs"]


def test_rebuild_forgets_what_has_no_folder_and_clears_up_after_a_killed_one(home):
    make_run(home)
    ingest_all(home)
    with writing(home.index) as con:
        con.execute("INSERT INTO runs (run_id) VALUES ('ghost')")
    leftover = home.root / ".index.duckdb.rebuild-999999999-1"  # above the largest process id of Linux
    own = home.root / f".index.duckdb.rebuild-{os.getpid()}-1"
    leftover.touch()
    own.touch()
    rebuild(home)
    assert counts(home, "ghost")["runs"] == 0
    assert not leftover.exists()
    assert own.exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 10_000])
def test_rebuild_works_over_a_damaged_index_and_its_log(home, content):
    make_run(home)
    with writing(home.index):
        pass
    with duckdb.connect(home.index) as con:
        con.execute("PRAGMA disable_checkpoint_on_shutdown")  # leaves the log that a kill would leave
        con.execute("INSERT INTO runs (run_id) VALUES ('ghost')")
    assert home.index.with_name("index.duckdb.wal").exists()
    home.index.write_bytes(content)
    rebuild(home)
    assert counts(home) == WHOLE
    assert counts(home, "ghost")["runs"] == 0
    assert not home.index.with_name("index.duckdb.wal").exists()


def test_rebuild_of_nothing_is_an_empty_index(home):
    assert rebuild(home).written == []
    with reading(home.index) as con:
        assert queries.overview(con).empty


def test_rebuild_keeps_what_others_index_meanwhile(home, monkeypatch):
    make_run(home, "early")
    build = ingest._ingest_private
    turns = []

    def build_while_another_indexes(database, of_home):
        report = build(database, of_home)
        if not turns:
            thread = threading.Thread(target=lambda: ingest_run(home.index, make_run(home, "late")))
            thread.start()
            thread.join()
        turns.append(report)
        return report

    monkeypatch.setattr(ingest, "_ingest_private", build_while_another_indexes)
    assert rebuild(home).written == ["early", "late"]
    assert counts(home, "late") == counts(home, "early") == WHOLE


def test_a_failing_rebuild_leaves_the_old_index(home, monkeypatch):
    make_run(home)
    ingest_all(home)

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(ingest.os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        rebuild(home)
    assert counts(home) == WHOLE
    assert not list(home.root.glob("*rebuild*"))


def test_an_index_of_the_first_schema_is_migrated_and_keeps_its_runs(home, monkeypatch):
    from engine.index import schema

    home.root.mkdir(parents=True)
    with duckdb.connect(str(home.index)) as con:
        schema.migrate(con, schema.MIGRATIONS[:1])
        con.execute("INSERT INTO runs (run_id, name, state, fingerprint) VALUES ('old', 'demo', 'done', 'of then')")
    with reading(home.index) as con:
        assert schema.version(con) == schema.CURRENT
        run = queries.get_run(con, "old")
    assert (run.name, run.pinned, run.certificate, run.summary) == ("demo", False, None, Summary())
    assert run.fingerprint is None  # read again at the next ingest, for the columns it did not have
