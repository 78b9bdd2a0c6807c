"""Files that survive a kill: atomic replacement, append-only lines, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError
from engine.untrusted.json_text import is_deeper
from engine.untrusted.regular_files import kind_of

DOCUMENT_BYTES = 64_000_000  # of one JSON document: more is not ours, or is damaged
_DEPTH = 64  # levels of a document: ours have five
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' and 'not permitted' into an error a user can act on."""
    try:
        yield
    except Exception as error:
        code = _error_number(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise DraftbenchError(
                f"the disk is full: could not write {path}",
                "what was finished before is intact and is not done again",
                "free some space (or point DRAFTBENCH_HOME at a larger disk), then resume",
            ) from error
        if code in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise DraftbenchError(
                f"not allowed to write {path}",
                os.strerror(code),
                "choose another folder with DRAFTBENCH_HOME, or correct its permissions",
            ) from error
        raise


def _error_number(error: Exception) -> int | None:
    """The system's error number; libraries written in Rust (safetensors) only print it."""
    if isinstance(error, OSError):
        return error.errno
    printed = re.search(r"\(os error (\d+)\)", str(error))
    return int(printed[1]) if printed else None


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replace `path` so that a reader or a crash sees the old content or the new, whole."""
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


def write_json(path: Path, value: Any) -> None:
    """`value` as indented UTF-8 JSON, replaced atomically."""
    write_atomic(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The value with nan and infinities as None, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def read_bounded(path: Path, most: int = DOCUMENT_BYTES) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    A pipe or a device in a file's place would wait for ever, and one that is too large would fill the memory: both are
    a DraftbenchError, and so is whatever the system says. Raises FileNotFoundError if there is no such file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without waiting for a pipe's other end
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise DraftbenchError(f"{path} is not a regular file", f"it is {kind_of(found.st_mode)}", "remove it")
            if found.st_size > most:
                raise DraftbenchError(
                    f"{path} has {found.st_size:,} bytes", f"at most {most:,} are read", "restore it or remove it"
                )
            return file.read(most + 1)[:most]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a ValueError for a name with a zero byte
        said = getattr(error, "strerror", None) or str(error)
        raise DraftbenchError(f"could not read {path}: {said}", "", "restore it or remove it") from error


def read_json(path: Path, most: int = DOCUMENT_BYTES) -> Any:
    """The JSON in `path`; a damaged file is an error that names it.

    Half a character (a lone surrogate, which JSON can write and nothing else can) is read as '?'. Raises
    FileNotFoundError if there is no such file.
    """
    raw = read_bounded(path, most)
    try:
        text = raw.decode("utf-8")
        value = json.loads(text)
        if raw.count(b"[") + raw.count(b"{") > _DEPTH and is_deeper(value, _DEPTH):
            raise ValueError(f"nested more than {_DEPTH} deep")
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, bytes that are no UTF-8, ...
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DraftbenchError(
            f"{path} is not valid JSON: {said}", "the file is damaged", "restore it or remove it"
        ) from error
    return whole_characters(value) if _SURROGATE.search(text) else value


def whole_characters(value: Any) -> Any:
    """The value with '?' for each half of a character in its texts: no file and no screen takes one."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(inner) for key, inner in value.items()}
    return [whole_characters(inner) for inner in value] if isinstance(value, list) else value


def append_line(path: Path, value: Any) -> None:
    """One JSON value as one line, in a single write.

    A torn line left by a kill is closed first, so that it spoils itself and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(finite(value), ensure_ascii=False).encode() + b"\n"
    with disk_errors(path), open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size and _last_byte(file, size) != b"\n":
            line = b"\n" + line
        file.write(line)


def _last_byte(file: Any, size: int) -> bytes:
    file.seek(size - 1)
    byte: bytes = file.read(1)
    return byte


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole JSON object of a JSON-lines file; torn or damaged lines are skipped."""
    if not path.is_file():  # a pipe in its place would be waited for
        return
    with open(path, "rb") as file:
        for line in file:
            value = json_object(line)
            if value is not None:
                yield value


def json_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line of a file that a kill may have torn; None if it is not whole."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or (line.count(b"[") + line.count(b"{") > _DEPTH and is_deeper(value, _DEPTH)):
        return None
    return whole_characters(value) if b"\\u" in line and _SURROGATE.search(line.decode("utf-8")) else value


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form: the address of a capture."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
