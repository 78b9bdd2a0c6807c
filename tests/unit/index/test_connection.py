"""The turnstile with threads and real processes; damaged, foreign and future files; migrations."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import duckdb
import pytest

from engine.errors import DraftbenchError
from engine.index import schema
from engine.index.connection import exclusive, reading, writing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
COUNT = "SELECT count(*) FROM runs"


def add(con, run_id):
    con.execute("INSERT INTO runs (run_id) VALUES (?)", [run_id])


def count(index):
    with reading(index) as con:
        return con.execute(COUNT).fetchone()[0]


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "index.duckdb"
    with writing(path) as con:
        add(con, "first")
    return path


def start(code, *arguments):
    """A Python process that runs `code` and says 'ready' when it is where it should be."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == "ready"
    return process


READER = """
    import sys, time, pathlib
    from engine.index.connection import reading
    with reading(pathlib.Path(sys.argv[1])) as con:
        print("ready", flush=True)
        time.sleep(float(sys.argv[2]))
        assert con.execute("SELECT count(*) FROM runs").fetchone()[0] == 1
"""
KILLED_WRITER = """
    import sys, time, pathlib
    from engine.index.connection import writing
    with writing(pathlib.Path(sys.argv[1])) as con:
        con.execute("INSERT INTO runs (run_id) VALUES ('half')")
        print("ready", flush=True)
        time.sleep(60)
"""


def test_a_missing_index_reads_as_an_empty_one_and_is_not_created(tmp_path):
    path = tmp_path / "nowhere" / "index.duckdb"
    assert count(path) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_exception_rolls_everything_back(index):
    def write_and_fail(*run_ids):
        with writing(index) as con:
            for run_id in run_ids:
                add(con, run_id)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail("second")
    with pytest.raises(duckdb.ConstraintException):
        write_and_fail("third", "first")  # a key twice: DuckDB itself gives the transaction up
    assert count(index) == 1


def test_readers_cannot_write(index):
    with reading(index) as con, pytest.raises(duckdb.InvalidInputException, match="read-only"):
        add(con, "second")


def test_writer_waits_for_a_reader_in_another_process(index):
    process = start(READER, index, 0.5)
    began = time.monotonic()
    with writing(index) as con:
        add(con, "second")
    assert time.monotonic() - began > 0.3
    process.communicate()
    assert process.returncode == 0
    assert count(index) == 2


def test_a_reader_that_leaves_does_not_open_the_door_for_others(index):
    """DuckDB's lock is the process's: closed carelessly, one reader would drop it for all of them."""
    with reading(index) as staying:
        with reading(index):
            pass
        with pytest.raises(subprocess.CalledProcessError) as refused:
            subprocess.run(
                [sys.executable, "-c", "import sys, duckdb; duckdb.connect(sys.argv[1])", index],
                check=True,
                capture_output=True,
                text=True,
            )
        assert "Could not set lock" in refused.value.stderr
        assert staying.execute(COUNT).fetchone() == (1,)


def test_writer_gives_up_on_a_reader_that_stays(index):
    with reading(index), pytest.raises(DraftbenchError, match="in use") as refused:
        in_thread(lambda: write_one(index, "second", timeout_s=0.2))
    assert "try again" in refused.value.fix
    assert count(index) == 1


def test_a_busy_index_is_reported_to_writers_and_readers(index):
    with writing(index):
        for attempt in (lambda: write_one(index, "second", timeout_s=0.1), lambda: read_one(index, timeout_s=0.1)):
            with pytest.raises(DraftbenchError, match="in use"):
                in_thread(attempt)


def test_a_killed_writer_leaves_no_lock_and_no_half_transaction(index):
    process = start(KILLED_WRITER, index)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert count(index) == 1
    write_one(index, "second")
    assert count(index) == 2


def test_threads_of_one_process_read_and_write_without_an_error(index):
    errors = []

    def work(number):
        try:
            for turn in range(2):
                if number < 3:
                    write_one(index, f"{number}-{turn}")
                else:
                    assert count(index) >= 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert count(index) == 1 + 3 * 2


def test_exclusive_waits_until_readers_have_left(index):
    entered, left = threading.Event(), []

    def read():
        with reading(index):
            entered.set()
            time.sleep(0.3)
            left.append(True)

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait()
    with exclusive(index):
        assert left == [True]
    thread.join()


@pytest.mark.parametrize("content", [b"", b"x", b"not a database " * 5000])
def test_a_file_that_is_no_database_tells_how_to_make_it_again(tmp_path, content):
    path = tmp_path / "index.duckdb"
    path.write_bytes(content)
    for use in (reading, writing):
        with pytest.raises(DraftbenchError, match="cannot be read") as refused, use(path):
            pass
        assert "draftbench index --rebuild" in refused.value.fix


def test_damage_that_only_shows_while_reading_is_reported_too(tmp_path):
    path = tmp_path / "index.duckdb"
    with writing(path) as con:
        con.execute("CREATE TABLE bulk AS SELECT 'r' AS run_id, md5(range::VARCHAR) AS text FROM range(200_000)")
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 4, len(content), 4096):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DraftbenchError, match="cannot be read") as refused, reading(path) as con:
        con.execute("SELECT max(text), max(run_id) FROM bulk").fetchall()
    assert "--rebuild" in refused.value.fix


def test_a_full_disk_is_not_called_damage(index):
    with pytest.raises(DraftbenchError, match="disk is full"), writing(index):
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")


def test_migrations_are_applied_once_each_and_in_order(tmp_path):
    with duckdb.connect(tmp_path / "x.duckdb") as con:
        first, second = "CREATE TABLE a (i INTEGER); INSERT INTO a VALUES (1)", "ALTER TABLE a ADD COLUMN j INTEGER"
        assert schema.version(con) == 0
        assert schema.migrate(con, [first]) == 1
        assert schema.migrate(con, [first]) == 1
        assert schema.migrate(con, [first, second]) == schema.version(con) == 2
        assert con.execute("SELECT * FROM a").fetchall() == [(1, None)]


def test_a_failing_migration_leaves_the_old_schema_whole(tmp_path):
    with duckdb.connect(tmp_path / "x.duckdb") as con:
        schema.migrate(con, ["CREATE TABLE a (i INTEGER)"])
        with pytest.raises(duckdb.Error):
            schema.migrate(con, ["", "ALTER TABLE a ADD COLUMN j INTEGER; SELECT * FROM nowhere"])
        assert schema.version(con) == 1
        assert list(schema.columns(con, "a")) == ["i"]


def test_a_reader_migrates_an_older_index(tmp_path):
    path = tmp_path / "index.duckdb"
    duckdb.connect(path).close()  # version 0
    assert count(path) == 0


def test_an_index_of_a_newer_program_is_refused_with_a_way_out(index):
    with writing(index) as con:
        con.execute("INSERT INTO schema_version VALUES (?)", [schema.CURRENT + 1])
    for use in (reading, writing):
        with pytest.raises(DraftbenchError, match="schema version") as refused, use(index):
            pass
        assert "--rebuild" in refused.value.fix


def test_a_home_that_may_only_be_read_is_read_without_the_lock(index, monkeypatch):
    monkeypatch.setattr("engine.index.connection.os.access", lambda *_: False)
    index.with_name("index.duckdb.lock").unlink()
    assert count(index) == 1
    assert not index.with_name("index.duckdb.lock").exists()


def test_every_table_of_a_run_knows_its_run(index):
    with reading(index) as con:
        for table in schema.RUN_TABLES:
            assert next(iter(schema.columns(con, table))) == "run_id"


def write_one(index, run_id, timeout_s=30.0):
    with writing(index, timeout_s) as con:
        add(con, run_id)


def read_one(index, timeout_s=30.0):
    with reading(index, timeout_s) as con:
        con.execute(COUNT).fetchall()


def in_thread(work):
    """Run `work` in a thread and raise here what it raised there."""
    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
