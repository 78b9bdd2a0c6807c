"""Files that survive a kill: atomic replacement of files and folders, append-only lines, JSON, hashes."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError
from engine.untrusted.json_text import is_deeper
from engine.untrusted.regular_files import kind_of

DOCUMENT_BYTES = 64_000_000  # most of a JSON document: a larger one is not ours, or is damaged
_MAX_DEPTH = 64  # levels of a document: ours have five
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left', 'not permitted' and 'in use' into an error a user can act on."""
    try:
        yield
    except Exception as error:
        code = _error_number(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise DraftbenchError(
                f"the disk is full: could not write {path}",
                "everything that was finished before is intact and is not done again",
                "free some space or take a larger disk (--out, or DRAFTBENCH_HOME for runs), then resume or repeat it",
            ) from error
        if code in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise DraftbenchError(
                f"not allowed to write {path}",
                os.strerror(code),
                "choose another folder (--out, or DRAFTBENCH_HOME for runs), or correct its permissions",
            ) from error
        if code == errno.EBUSY:
            raise DraftbenchError(
                f"{path} cannot be replaced",
                "the system uses it, as it does a mount point",
                f"name a folder in it, such as {path / 'new'}",
            ) from error
        raise


def _error_number(error: Exception) -> int | None:
    """The system's error number; libraries written in Rust (safetensors) only print it, and NumPy loses it."""
    if isinstance(error, OSError):
        cut_short = error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if cut_short else error.errno
    printed = re.search(r"\(os error (\d+)\)", str(error))
    return int(printed[1]) if printed else None


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replace `path` so that readers, and a crash, see either the whole old content or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            os.fchmod(handle, mode)  # mkstemp's 0600 would lock others out of a shared home
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into, which replaces `folder` at the end; a failure leaves nothing of it.

    The caller keeps other writers of `folder` out by a lock. What a killed process left is removed, or put back if it
    was the former `folder`.
    """
    prefix = f".{folder.name}-making-"
    for leftover in folder.parent.glob(glob.escape(prefix) + "*"):
        if not folder.exists() and (leftover / "old").exists():
            os.rename(leftover / "old", folder)
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        yield new
        try:
            os.rename(new, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            os.rename(
                folder, Path(temporary) / "old"
            )  # after a kill before the next line, the next writer puts it back
            os.rename(new, folder)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, replacing the file atomically."""
    write_atomic(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON cannot express."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def read_bounded(path: Path, most: int = DOCUMENT_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes.

    Reading a pipe or a device could wait for ever, and a file that is too large would fill the memory: both raise
    DraftbenchError, and so does any error of the system. Raises FileNotFoundError if there is no such file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # does not wait for the other end of a pipe
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise DraftbenchError(f"{path} is not a regular file", f"it is {kind_of(status.st_mode)}", "remove it")
            if status.st_size > most:
                raise DraftbenchError(
                    f"{path} has {status.st_size:,} bytes", f"at most {most:,} are read", "restore it or remove it"
                )
            return file.read(most + 1)[:most]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a ValueError for a name with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise DraftbenchError(f"could not read {path}: {reason}", "", "restore it or remove it") from error


def read_json(path: Path, most: int = DOCUMENT_BYTES) -> Any:
    """Read the JSON in `path`. Raises DraftbenchError for a damaged file, FileNotFoundError if there is no such file.

    A lone surrogate, which JSON can write and nothing else can, is read as '?'.
    """
    raw = read_bounded(path, most)
    try:
        text = raw.decode("utf-8")
        value = json.loads(text)
        if raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH and is_deeper(value, _MAX_DEPTH):
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, bytes that are no UTF-8, ...
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DraftbenchError(
            f"{path} is not valid JSON: {reason}", "the file is damaged", "restore it or remove it"
        ) from error
    return whole_characters(value) if _SURROGATE.search(text) else value


def read_object(path: Path, most: int = DOCUMENT_BYTES) -> dict[str, Any]:
    """Read the JSON object in `path`, as `read_json`. Raises DraftbenchError for any other value."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise DraftbenchError(f"{path} is not a JSON object", "the file is damaged", "restore it or remove it")
    return value


def whole_characters(value: Any) -> Any:
    """The value with '?' for each lone surrogate in its texts, which no file and no screen can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(inner) for key, inner in value.items()}
    return [whole_characters(inner) for inner in value] if isinstance(value, list) else value


def append_line(path: Path, value: Any) -> None:
    """Append a JSON value as one line, in a single write.

    A torn line that a kill left is closed first, so that only that line is lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(finite(value), ensure_ascii=False).encode() + b"\n"
    with disk_errors(path), open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the JSON objects of a JSON-lines file; torn or damaged lines are skipped."""
    if not path.is_file():  # reading a pipe could wait for ever
        return
    with open(path, "rb") as file:
        for line in file:
            value = json_object(line)
            if value is not None:
                yield value


def json_object(line: bytes) -> dict[str, Any] | None:
    """Parse the JSON object in a line that a kill may have torn; None if it is not complete."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or (
        line.count(b"[") + line.count(b"{") > _MAX_DEPTH and is_deeper(value, _MAX_DEPTH)
    ):
        return None
    return whole_characters(value) if b"\\u" in line and _SURROGATE.search(line.decode("utf-8")) else value


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form, such as the address of a capture."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
