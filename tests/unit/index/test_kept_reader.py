"""A reader that is kept open for a moment makes the next ones quick and holds up no writer for longer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.index import kept_reader
from engine.index.connection import exclusive, reading, writing
from engine.paths import PROJECT_ROOT

ADD = """
import pathlib, sys
from engine.index.connection import writing
with writing(pathlib.Path(sys.argv[1])) as con:
    con.execute("INSERT INTO runs (run_id) VALUES ('another')")
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Path]:
    """An index of one run, whose readers are kept for longer than a test takes."""
    path = (tmp_path / "index.duckdb").resolve()
    add(path, "first")
    kept_reader.share_readers(600)
    yield path
    kept_reader.share_readers(0)
    kept_reader.let_go(path)


def add(index: Path, run_id: str) -> None:
    with writing(index, timeout_s=5) as con:
        con.execute("INSERT INTO runs (run_id) VALUES (?)", [run_id])


def ids(index: Path) -> list[str]:
    with reading(index) as con:
        return [run_id for (run_id,) in con.execute("SELECT run_id FROM runs ORDER BY run_id").fetchall()]


def test_a_writer_of_this_process_does_not_wait_for_it(index: Path):
    assert ids(index) == ["first"]
    assert index in kept_reader._kept
    add(index, "second")
    assert ids(index) == ["first", "second"]


@pytest.mark.slow
def test_a_writer_of_another_process_waits_until_it_is_let_go(index: Path):
    assert ids(index) == ["first"]
    writer = subprocess.Popen([sys.executable, "-c", ADD, str(index)], cwd=PROJECT_ROOT)
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(timeout=3)
    kept_reader.let_go(index)
    assert writer.wait(timeout=60) == 0
    assert ids(index) == ["another", "first"]


def test_it_is_let_go_after_its_time(index: Path):
    kept_reader.share_readers(0.2)
    assert ids(index) == ["first"]
    until = time.monotonic() + 60
    while index in kept_reader._kept and time.monotonic() < until:
        time.sleep(0.05)
    assert index not in kept_reader._kept


def test_the_file_can_be_replaced(index: Path, tmp_path: Path):
    other = tmp_path / "other.duckdb"
    add(other, "of the other")
    assert ids(index) == ["first"]
    with exclusive(index, timeout_s=5):
        other.replace(index)
    assert ids(index) == ["of the other"]


@pytest.mark.slow
def test_a_reader_beside_it_makes_no_instance(index: Path):
    assert ids(index) == ["first"]
    began = time.process_time()
    for _ in range(20):
        ids(index)
    shared = time.process_time() - began
    kept_reader.share_readers(0)
    kept_reader.let_go(index)
    began = time.process_time()
    for _ in range(20):
        ids(index)
    assert shared < time.process_time() - began


def test_nothing_is_kept_of_an_index_that_is_not_there(tmp_path: Path):
    kept_reader.share_readers(600)
    try:
        assert ids(tmp_path / "none.duckdb") == []
    finally:
        kept_reader.share_readers(0)
    assert kept_reader._kept == {}
