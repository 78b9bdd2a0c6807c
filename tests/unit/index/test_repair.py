"""An index that cannot be opened is set aside and made again; one that somebody holds is not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from engine.errors import DraftbenchError
from engine.index import schema
from engine.index.connection import IndexDamagedError, damage_mark, reading, writing
from engine.index.ingest import ingest_all, rebuild
from engine.paths import Home
from tests.unit.index.run_folders import WHOLE, counts, make_run

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    make_run(made)
    ingest_all(made)
    return made


def in_place(damage):
    def replace(path: Path) -> None:
        path.unlink()
        damage(path)

    return replace


def newer_storage(path: Path) -> None:
    """As a later DuckDB would write it: the version stands behind the magic word."""
    content = bytearray(path.read_bytes())
    content[12] = 250
    path.write_bytes(content)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(0, 12_288, 64):
        content[place] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"not a database " * 5000),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "flipped": flipped,
    "newer": newer_storage,
    "a folder": in_place(lambda path: (path / "x").mkdir(parents=True)),
    "a pipe": in_place(os.mkfifo),
    "a link to itself": in_place(lambda path: path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_index_is_set_aside_and_made_again_and_that_is_said_once(home, damage, caplog):
    damage(home.index)
    with caplog.at_level(logging.WARNING, logger="draftbench"):
        report = ingest_all(home)
    assert report.written == ["run-1"]
    assert counts(home) == WHOLE
    (aside,) = home.root.glob("index.duckdb.damaged-*")
    assert str(aside) in report.repaired
    assert str(aside) in caplog.text
    caplog.clear()
    assert ingest_all(home).repaired == ""
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_rebuild_works_over_any_damage(home, damage):
    damage(home.index)
    rebuild(home)
    assert counts(home) == WHOLE


def left_log(home: Home) -> Path:
    """The log that a kill leaves: what is in it is not in the file yet."""
    with duckdb.connect(home.index) as con:
        con.execute("PRAGMA disable_checkpoint_on_shutdown")
        con.execute("INSERT INTO runs (run_id) SELECT 'ghost' || range FROM range(500)")
    return home.index.with_name("index.duckdb.wal")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_a_flipped_byte_in_the_log_stops_nobody(home, share):
    log = left_log(home)
    content = bytearray(log.read_bytes())
    content[int(share * len(content))] ^= 0xFF
    log.write_bytes(content)
    ingest_all(home)
    assert counts(home) == WHOLE


def test_a_folder_in_the_place_of_the_log(home):
    home.index.with_name("index.duckdb.wal").mkdir()
    ingest_all(home)
    assert counts(home) == WHOLE


def test_damage_that_shows_only_while_reading_is_mended_at_the_next_look(home):
    with writing(home.index) as con:
        con.execute("CREATE TABLE bulk AS SELECT 'r' AS run_id, md5(range::VARCHAR) AS text FROM range(200_000)")
    content = bytearray(home.index.read_bytes())
    for place in range(len(content) // 4, len(content), 4096):
        content[place] ^= 0xFF
    home.index.write_bytes(content)
    with pytest.raises(IndexDamagedError), reading(home.index) as con:
        con.execute("SELECT max(text), max(run_id) FROM bulk").fetchall()
    assert ingest_all(home).repaired
    assert counts(home) == WHOLE
    assert not damage_mark(home.index).exists()


def test_an_index_that_another_process_holds_is_not_damaged(home):
    hold = f"import duckdb, sys; con = duckdb.connect({str(home.index)!r}); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DraftbenchError, match="in use") as refused:
            ingest_all(home, timeout_s=0.3)
        other.communicate()
    assert not isinstance(refused.value, IndexDamagedError)
    assert ingest_all(home).unchanged == ["run-1"]
    assert not list(home.root.glob("*.damaged*"))


def test_a_full_disk_and_a_newer_draftbench_are_not_damage(home):
    with pytest.raises(DraftbenchError, match="disk is full"), writing(home.index):
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")
    assert ingest_all(home).repaired == ""
    with writing(home.index) as con:
        con.execute("INSERT INTO schema_version VALUES (?)", [schema.CURRENT + 1])
    with pytest.raises(DraftbenchError, match="schema version"):
        ingest_all(home)
    assert not list(home.root.glob("*.damaged*"))
