"""Hashes of large files, remembered so that a start does not read gigabytes again."""

from __future__ import annotations

import os
from pathlib import Path

from engine.fileio import content_hash, json_object, sha256_file, write_json
from engine.paths import cache_dir

_SMALL_BYTES = 10_000_000


def remembered_sha256(file: Path) -> str:
    """Hex sha256 of a file's bytes; read again only where the file system says that it may have changed.

    Remembered by path, inode, size, and the times of the last change of content and of status. The last one cannot be
    set by a program, so a byte that was changed and given its old time back is noticed. Damage below the file system
    (a failing disk) is not: `draftbench fetch` reads everything again.
    """
    if file.stat().st_size < _SMALL_BYTES:
        return sha256_file(file)
    note = _note(file)
    known = json_object(note.read_bytes()) if note.is_file() else None
    return known["sha256"] if known is not None and isinstance(known.get("sha256"), str) else sha256_now(file)


def sha256_now(file: Path) -> str:
    """Hex sha256 of a file's bytes, read now; it replaces what was remembered."""
    note = _note(file)  # of before the reading: a change in the meantime makes another note
    found = sha256_file(file)
    if file.stat().st_size >= _SMALL_BYTES:
        write_json(note, {"file": os.fsdecode(file).encode("utf-8", "replace").decode(), "sha256": found})
    return found


def _note(file: Path) -> Path:
    stat = file.stat()
    name = os.fsencode(file.resolve()).hex()
    key = content_hash([name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    return cache_dir() / "fingerprints" / f"{key[:32]}.json"
