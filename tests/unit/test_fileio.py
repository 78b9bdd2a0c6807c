"""Files that survive a kill and a full disk, and paths that cannot be left."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from engine import fileio
from engine.errors import DraftbenchError
from engine.fileio import (
    append_line,
    content_hash,
    disk_errors,
    read_json,
    read_lines,
    sha256_file,
    write_atomic,
    write_json,
)
from engine.paths import Home, home, resolve_input

FULL_DEVICE = Path("/dev/full")  # Linux: every write to it finds the disk full


def fail_with(code: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"x": "ä"})
    write_json(path, {"y": 1})
    assert read_json(path) == {"y": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_write_that_fails_at_any_step_leaves_the_old_file(tmp_path: Path, monkeypatch, step, error):
    path = tmp_path / "status.json"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_disk_before_the_name_points_to_them(tmp_path: Path, monkeypatch):
    order: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (order.append(name), real(*a))[1])
    write_atomic(tmp_path / "a", b"x")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_an_error_for_people_and_the_old_file_stays(tmp_path: Path, monkeypatch, step):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    monkeypatch.setattr(os, step, fail_with(errno.ENOSPC))
    with pytest.raises(DraftbenchError, match=r"disk is full.*a\.json") as caught:
        write_atomic(path, "new")
    assert "resume" in caught.value.fix
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_noticed_when_the_temporary_file_cannot_even_be_made(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "mkstemp", fail_with(errno.ENOSPC))
    with pytest.raises(DraftbenchError, match="disk is full"):
        write_atomic(tmp_path / "a", "x")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
def test_an_append_to_a_disk_that_is_really_full_is_an_error_for_people():
    with pytest.raises(DraftbenchError, match="disk is full"):
        append_line(FULL_DEVICE, {"a": 1})


def test_a_full_disk_under_safetensors_is_an_error_for_people_too(tmp_path: Path):
    """safetensors raises no OSError; this is what it says on a full tmpfs."""
    from safetensors import SafetensorError

    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(DraftbenchError, match="disk is full"), disk_errors(tmp_path):
        raise SafetensorError(text)
    with pytest.raises(SafetensorError, match="header"), disk_errors(tmp_path):
        raise SafetensorError("invalid header")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_forbidden_folder_is_an_error_for_people(tmp_path: Path, monkeypatch, code):
    monkeypatch.setattr(os, "replace", fail_with(code))
    with pytest.raises(DraftbenchError, match="not allowed to write"):
        write_atomic(tmp_path / "a", "x")


def test_a_full_disk_under_numpy_which_loses_the_reason_is_an_error_for_people_too():
    import numpy

    with (
        pytest.raises(DraftbenchError, match="disk is full"),
        disk_errors(FULL_DEVICE),
        open(FULL_DEVICE, "wb") as file,
    ):
        numpy.zeros(100_000, dtype=numpy.uint8).tofile(file)


def test_a_folder_that_the_system_uses_is_an_error_for_people(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="cannot be replaced"), disk_errors(tmp_path):
        raise OSError(errno.EBUSY, "Device or resource busy")


def test_errors_that_no_user_can_mend_keep_their_type(tmp_path: Path):
    with pytest.raises(OSError, match="odd"), disk_errors(tmp_path):
        raise OSError(errno.EIO, "odd")


@pytest.mark.parametrize("torn", [b'{"n": 3, "te', b"\xff\xfe", b"{", b'{"text": "\xe4\xbd'])
def test_a_torn_last_line_is_skipped_and_spoils_nothing_that_follows(tmp_path: Path, torn: bytes):
    path = tmp_path / "events.jsonl"
    append_line(path, {"n": 1})
    append_line(path, {"n": 2, "text": "生物\n🙂"})
    with open(path, "ab") as file:
        file.write(torn)
    assert [line["n"] for line in read_lines(path)] == [1, 2]
    append_line(path, {"n": 4})
    append_line(path, {"n": 5})
    assert [line["n"] for line in read_lines(path)] == [1, 2, 4, 5]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"n": 1}')
    append_line(path, {"n": 2})
    assert [line["n"] for line in read_lines(path)] == [1, 2]


def test_an_append_is_one_line_whatever_the_text_holds(tmp_path: Path):
    path = tmp_path / "deep" / "events.jsonl"
    append_line(path, {"text": "a\nb\r\u2028c"})
    assert path.read_bytes().count(b"\n") == 1
    assert next(read_lines(path)) == {"text": "a\nb\r\u2028c"}


def test_lines_that_are_no_objects_are_skipped_and_a_missing_file_is_empty(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    assert list(read_lines(path)) == []
    path.write_text('1\n[2]\nnull\n\n{"n": 3}\n')
    assert list(read_lines(path)) == [{"n": 3}]


def test_damaged_json_names_its_file(tmp_path: Path):
    (tmp_path / "card.json").write_text('{"a": ')
    with pytest.raises(DraftbenchError, match=r"card\.json.*not valid JSON"):
        read_json(tmp_path / "card.json")


def test_a_content_hash_follows_the_value_and_not_the_order_of_keys():
    assert content_hash({"a": 1, "b": [1, "é"]}) == content_hash(json.loads('{"b": [1, "\\u00e9"], "a": 1}'))
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash([1, 2]) != content_hash([2, 1])


def test_a_file_hash_is_that_of_its_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "run_id",
    ["..", "../x", "a/../b", "/etc", "a/b", "a\\b", "", ".", ".hidden", "a..b", "x\n", "~", "a\0b", "é", "x" * 121],
)
def test_a_run_id_cannot_leave_the_folder_of_runs(tmp_path: Path, run_id: str):
    with pytest.raises(DraftbenchError, match="not a valid name"):
        Home(tmp_path).run(run_id)


def test_a_plain_run_id_names_a_folder_under_runs(tmp_path: Path):
    assert Home(tmp_path).run("run-1_a.b") == tmp_path / "runs" / "run-1_a.b"


def test_home_follows_the_environment_and_is_not_made_by_asking(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DRAFTBENCH_HOME", str(tmp_path / "mine"))
    assert home().root == tmp_path / "mine"
    assert not home().root.exists()


def test_an_input_is_found_beside_the_recipe_and_in_the_project(tmp_path: Path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "p.jsonl").touch()
    monkeypatch.chdir(tmp_path / "work")
    assert resolve_input("p.jsonl", tmp_path / "beside") == (tmp_path / "beside" / "p.jsonl").resolve()
    assert resolve_input("pyproject.toml").name == "pyproject.toml"
    (tmp_path / "work" / "p.jsonl").touch()
    assert resolve_input("p.jsonl", tmp_path / "beside").parent.name == "work"
    with pytest.raises(DraftbenchError, match=r"no such file or folder: q\.jsonl") as caught:
        resolve_input("q.jsonl", tmp_path / "beside")
    assert str(tmp_path / "beside") in caught.value.why


def test_the_module_has_no_other_way_to_write(monkeypatch, tmp_path: Path):
    """write_json goes through write_atomic: whoever patches one patches both."""
    calls: list[Path] = []
    monkeypatch.setattr(fileio, "write_atomic", lambda path, data: calls.append(path))
    write_json(tmp_path / "x", {})
    assert calls == [tmp_path / "x"]
