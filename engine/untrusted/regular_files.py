"""Read input files from others only if they are regular files of a bounded size.

A path can name a device that never ends, a FIFO that nobody writes to, or a file of /proc, which is regular and has
content although its size is 0.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engine.errors import DraftbenchError, boundary

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_SYSTEM_FOLDERS = ("/proc", "/sys")
_MAX_FILES = 10_000


def kind_of(mode: int) -> str:
    """Name the type of a path that is not a regular file: 'a folder', 'a FIFO', ... `mode`: from its stat."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def printable(name: object) -> str:
    """A file's name for messages: bytes that are not UTF-8 are written as escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def require_regular(path: Path, most_bytes: int, named: str | None = None) -> int:
    """Return the size of a regular file. Raises DraftbenchError for others, and for more than `most_bytes`."""
    shown = printable(named or path)
    with boundary(f"could not read {shown}", "check the path and its permissions"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DraftbenchError(
            f"{shown} is {kind_of(status.st_mode)}",
            "only a regular file can be read completely, and again with the same result",
            "give the path of a file; save the output of a program to a file first",
        )
    if status.st_dev in _system_devices():
        raise DraftbenchError(
            f"{shown} is a file of the system, not one on a disk",
            "it shows the state of this machine, has no size, and changes as it is read",
            "give the path of a file on a disk",
        )
    if status.st_size > most_bytes:
        raise DraftbenchError(
            f"{shown} has {status.st_size:,} bytes; at most {most_bytes:,} are read",
            "a file of that size is of another kind, or would fill the memory",
            "give a smaller file",
        )
    return status.st_size


def read_text(path: Path, most_bytes: int, named: str | None = None) -> str:
    """Read a small file in UTF-8, with or without a byte order mark. Raises DraftbenchError."""
    require_regular(path, most_bytes, named)
    shown = printable(named or path)
    with boundary(f"could not read {shown}", "check the path and its permissions"), path.open("rb") as file:
        raw = file.read(most_bytes + 1)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DraftbenchError(
            f"{shown} is not UTF-8 text (byte {error.start})",
            "in another encoding its characters would be read wrongly",
            f"convert it, for example: iconv -f UTF-16 -t UTF-8 {shown} (with its real encoding)",
        ) from None


def regular_files(folder: Path, most_bytes: int, named: str | None = None) -> list[Path]:
    """List all files in a folder and below, sorted.

    Raises DraftbenchError if any of them is not regular, they have more than `most_bytes` together, or there are more
    than 10,000.
    """
    shown = printable(named or folder)
    files: list[Path] = []
    left = most_bytes
    for file in (Path(parent) / name for parent, _, names in os.walk(folder) for name in names):
        files.append(file)
        if len(files) > _MAX_FILES:
            raise DraftbenchError(
                f"{shown} holds more than {_MAX_FILES:,} files",
                "a data set has few; this folder holds something else as well",
                "give the folder of the data set itself",
            )
        left -= require_regular(file, left)
    return sorted(files)


def _system_devices() -> set[int]:
    return {Path(folder).stat().st_dev for folder in _SYSTEM_FOLDERS if Path(folder).is_dir()} - {
        Path("/").stat().st_dev
    }
