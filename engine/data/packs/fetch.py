"""What the commands ask of packs: fetch some, list all, describe one, read a few records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.data.packs.build import HUB, describe_pack, fetch_pack, is_fetched, pack_folder, read_entries
from engine.data.packs.catalogue import PACKS, find_pack
from engine.data.packs.entry import Entry
from engine.data.packs.presets import PRESETS, fetch_preset, find_preset
from engine.data.packs.sets import set_counts, set_file
from engine.errors import DraftbenchError
from engine.progress import Progress


def fetch_packs(
    names: Sequence[str], *, folder: str | None = None, revision: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """The description of each pack, fetched unless it is there, and of the sets they make with the others.

    `folder` and `revision` are those of `fetch_preset`, for names that begin with hub:. Raises
    DraftbenchError; the packs that were finished before it stay.
    """
    for name in names:  # a wrong name is told before the first download
        find_preset(name) if name.startswith(HUB) else find_pack(name)
    if (folder or revision) and not (len(names) == 1 and names[0].startswith(HUB)):
        raise DraftbenchError(
            f"--from and --revision are for one hub preset, not for {', '.join(names) or 'none'}",
            "packs of packages are pinned by their hash",
            f"for example: draftbench data fetch hub:{next(iter(PRESETS))} --from FOLDER",
        )
    progress = progress or Progress(quiet=True)
    progress.start("packs", len(names) + 1, "steps")
    for name in names:
        if name.startswith(HUB):
            fetch_preset(name, folder=folder, revision=revision)
        else:
            if not is_fetched(name):
                progress.note(f"{name}: {PACKS[name].requirement}, {PACKS[name].size_bytes / 1e6:.0f} MB")
            fetch_pack(name)
        progress.advance()
    sets = set_counts()
    progress.advance()
    progress.finish()
    return {"packs": [describe(name) for name in names], "sets": sets}


def describe(name: str) -> dict[str, Any]:
    """What a fetched pack's `pack.json` says, and where it lies."""
    return describe_pack(name) | {"folder": str(pack_folder(name))}


def list_packs() -> list[dict[str, Any]]:
    """Every pack and hub preset of this version: name, size of its download, licence, and whether it is here."""
    packs = [
        {
            "name": name,
            "fetched": is_fetched(name),
            "requirement": pack.requirement,
            "megabytes": pack.size_bytes / 1e6,
            "optional": pack.optional,
            "licence": pack.licence,
            "attribution": pack.attribution,
            "about": pack.about,
        }
        for name, pack in PACKS.items()
    ]
    presets = [
        {
            "name": HUB + name,
            "fetched": is_fetched(HUB + name),
            "requirement": f"hub: {preset.dataset}" + (", gated" if preset.gated else ""),
            "megabytes": preset.size_bytes / 1e6,
            "optional": True,
            "licence": preset.licence,
            "attribution": preset.attribution,
            "about": preset.about,
        }
        for name, preset in PRESETS.items()
    ]
    return [*packs, *presets]


def first_records(name: str, count: int) -> list[Entry]:
    """The first records of the set `pack:...`."""
    return read_entries(set_file(name))[:count]
