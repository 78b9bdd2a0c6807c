"""Files that survive a kill: atomic replacement, append-only lines, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError


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
                "choose another folder with DRAFTBENCH_HOME, or mend its permissions",
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


def read_json(path: Path) -> Any:
    """The JSON in `path`; a damaged file is an error that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DraftbenchError(
            f"{path} is not valid JSON: {error}", "the file is damaged", "restore it or remove it"
        ) from error


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
    if not path.exists():
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
    return value if isinstance(value, dict) else None


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form: the address of a capture."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
