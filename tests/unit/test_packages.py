"""Archives from a package index: a real pip on a folder of tiny packages, and a pip that breaks."""

from __future__ import annotations

import errno
import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import packages
from engine.errors import DraftbenchError
from engine.packages import copy_member, download, read_member

BACKEND = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder) / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    return info.name
def build_wheel(folder, settings=None, metadata=None):
    raise SystemExit("nothing is to be built")
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    info = {
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **info}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def write_sdist(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"tiny-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


def offline(index: Path) -> tuple[str, ...]:
    return ("--no-index", "--find-links", str(index))


def test_a_wheel_is_fetched_as_it_lies_on_the_index(index: Path, tmp_path: Path):
    wheel = write_wheel(index, {"tiny/data.json": b"[1]"})
    path = download("tiny==1.0", sha256(wheel), tmp_path / "to", offline(index))
    assert path == tmp_path / "to" / wheel.name
    assert path.read_bytes() == wheel.read_bytes()
    assert list((tmp_path / "to").iterdir()) == [path]
    assert read_member(path, "tiny/data.json") == b"[1]"


@pytest.mark.slow
def test_of_a_source_distribution_the_archive_is_kept(index: Path, tmp_path: Path):
    files = {"pyproject.toml": PROJECT, "backend.py": BACKEND.format(marker=str(tmp_path / "m")), "data/x.json": "[2]"}
    sdist = write_sdist(index, {name: text.encode() for name, text in files.items()})
    path = download("tiny==1.0", sha256(sdist), tmp_path / "to", offline(index), source_distribution=True)
    assert list((tmp_path / "to").iterdir()) == [path]
    assert read_member(path, "tiny-1.0/data/x.json") == b"[2]"


def test_a_replaced_source_distribution_is_refused_before_its_code_runs(index: Path, tmp_path: Path):
    marker = tmp_path / "marker"
    files = {"pyproject.toml": PROJECT, "backend.py": BACKEND.format(marker=str(marker))}
    digest = sha256(write_sdist(index, {name: text.encode() for name, text in files.items()}))
    with pytest.raises(DraftbenchError) as caught:
        download("tiny==1.0", "0" * 64, tmp_path / "to", offline(index), source_distribution=True)
    assert digest in caught.value.what
    assert "0" * 64 in caught.value.what
    assert "nothing was kept" in caught.value.fix
    assert not marker.exists()
    assert list((tmp_path / "to").iterdir()) == []


def test_a_package_that_is_not_there_is_reported_with_the_command_to_type_again(index: Path, tmp_path: Path):
    with pytest.raises(DraftbenchError, match=r"could not download tiny==1\.0") as caught:
        download("tiny==1.0", "0" * 64, tmp_path / "to", offline(index), again="draftbench data fetch tiny")
    assert "tiny" in caught.value.why
    assert "`draftbench data fetch tiny`" in caught.value.fix
    assert list((tmp_path / "to").iterdir()) == []


def pip(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], tuple[int, str]]) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        rc, printed = act(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, rc, "", printed)

    monkeypatch.setattr(packages.subprocess, "run", run)


def half_then(rc: int, printed: str) -> Callable[[Path], tuple[int, str]]:
    def act(folder: Path) -> tuple[int, str]:
        (folder / "tiny-1.0-py3-none-any.whl").write_bytes(b"half")
        return rc, printed

    return act


@pytest.mark.parametrize(
    ("rc", "printed", "what"),
    [
        (1, "ERROR: Connection broken: IncompleteRead", "could not download tiny==1.0"),
        (1, "ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
        (1, "/x/python: No module named pip", "has no pip"),
        (0, "", "has sha256"),  # pip content, and yet another file
    ],
)
def test_what_breaks_in_the_middle_leaves_nothing(monkeypatch, tmp_path: Path, rc: int, printed: str, what: str):
    pip(monkeypatch, half_then(rc, printed))
    with pytest.raises(DraftbenchError, match=what):
        download("tiny==1.0", "0" * 64, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_full_disk_here_is_reported_as_such(monkeypatch, tmp_path: Path):
    def full(_: Path) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    pip(monkeypatch, full)
    with pytest.raises(DraftbenchError, match="the disk is full"):
        download("tiny==1.0", "0" * 64, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("write", [write_wheel, write_sdist])
def test_a_file_that_is_not_in_the_archive_is_named(write: Callable[..., Path], tmp_path: Path):
    archive = write(tmp_path, {"a.txt": b"a"})
    with pytest.raises(DraftbenchError, match=r"holds no file tiny-1\.0/b\.txt"):
        read_member(archive, "tiny-1.0/b.txt")


def test_a_member_lands_where_the_engine_says_whatever_its_name(tmp_path: Path):
    archive = write_wheel(tmp_path, {"../../outside.txt": b"text"})
    copy_member(archive, "../../outside.txt", tmp_path / "inside.txt")
    assert (tmp_path / "inside.txt").read_bytes() == b"text"
    assert not (tmp_path.parent.parent / "outside.txt").exists()
