"""The hashes of a model's files; those of large ones are remembered, so that a start does not read gigabytes again."""

from __future__ import annotations

import os
from pathlib import Path

from engine.fileio import content_hash, json_object, sha256_file, whole_characters, write_json
from engine.models.gguf_header import parts_of
from engine.paths import cache_dir

_SMALL_BYTES = 10_000_000
_OF_A_MODEL = (".safetensors", ".json", ".jinja", ".model", ".py")
_RECORDS = ("tuning.json",)  # describes how a target was tuned and measured; the model does not depend on it


def hashes_of_model(path: Path) -> dict[str, str]:
    """Name -> hex sha256 of the files of a model or adapter folder, or of the parts of a GGUF file."""
    if path.is_file():
        return {part.name: remembered_sha256(part) for part in parts_of(path)}
    files = (file for file in path.iterdir() if file.suffix in _OF_A_MODEL and file.name not in _RECORDS)
    return {file.name: remembered_sha256(file.resolve()) for file in sorted(files) if file.is_file()}


def remembered_sha256(file: Path) -> str:
    """Hex sha256 of a file; it is read again only if the file system says that it may have changed.

    The key is the path, inode, size, and the times of the last change of content and of status. A program cannot set
    the last one, so a change is noticed even if the file got its old time back. Damage below the file system (a failing
    disk) is not noticed: `draftbench fetch` reads everything again.
    """
    if file.stat().st_size < _SMALL_BYTES:
        return sha256_file(file)
    note = _note(file)
    known = json_object(note.read_bytes()) if note.is_file() else None
    return known["sha256"] if known is not None and isinstance(known.get("sha256"), str) else sha256_now(file)


def sha256_now(file: Path) -> str:
    """Hex sha256 of a file, read now; it replaces the remembered one."""
    note = _note(file)  # before reading, so that a change in the meantime has another key
    sha256 = sha256_file(file)
    if file.stat().st_size >= _SMALL_BYTES:
        write_json(note, {"file": whole_characters(os.fsdecode(file)), "sha256": sha256})
    return sha256


def _note(file: Path) -> Path:
    stat = file.stat()
    name = os.fsencode(file.resolve()).hex()
    key = content_hash([name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    return cache_dir() / "fingerprints" / f"{key[:32]}.json"
