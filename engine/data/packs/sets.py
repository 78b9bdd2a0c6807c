"""The sets that a recipe names `pack:<domain>/<scenario>` and `pack:<domain>/<scenario>-heldout`.

A set is made of every fetched pack that has such records. No training set holds a query that
is held out anywhere: in another pack, domain or scenario, or in sample_data. So the sets
depend on which packs are there and are made together, under a hash of all they are made of.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from engine.chat.prompt import Prompt
from engine.config.schema import PromptSource
from engine.data.formats import read_jsonl
from engine.data.overlap import Repeat, remove_overlap
from engine.data.packs.build import (
    describe_pack,
    fetched_packs,
    is_fetched,
    pack_folder,
    packs_folder,
    read_side,
    refuse_damaged,
    write_entries,
)
from engine.data.packs.catalogue import PACKS
from engine.data.packs.entry import DOMAINS, SCENARIOS, SIDES, Domain, Entry, Scenario, Side, as_prompt
from engine.data.packs.split import order_key
from engine.data.records import to_prompt
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import content_hash, disk_errors, read_json, sha256_file, write_json
from engine.paths import PROJECT_ROOT

PREFIX = "pack:"
_RULES = 4  # goes up with a change to how sets are made or described
_HELDOUT = "-heldout"
_COUNTS = "sets.json"


class Place(NamedTuple):
    """Where records belong."""

    domain: Domain
    scenario: Scenario
    side: Side

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        return f"{PREFIX}{self.domain}/{self.scenario}{_HELDOUT if self.side == 'heldout' else ''}"

    @property
    def file_name(self) -> str:
        return f"{self.domain}-{self.scenario}-{self.side}.jsonl"


PLACES = {p.name: p for p in (Place(d, s, side) for d in DOMAINS for s in SCENARIOS for side in SIDES)}


def find_place(name: str) -> Place:
    """The place that `pack:<domain>/<scenario>[-heldout]` names. Raises DraftbenchError for any other."""
    if name not in PLACES:
        raise DraftbenchError(
            f"{name!r} names no set of the packs",
            "a set is named by domain and scenario, with -heldout for the side that is measured on",
            did_you_mean(name, PLACES),
        )
    return PLACES[name]


def set_file(name: str) -> Path:
    """The JSON-lines file of `pack:...`, made unless it is there. Raises DraftbenchError if no fetched pack has any."""
    place = find_place(name)
    about = next((row for row in set_counts()["sets"] if row["set"] == name), None)
    if about is None:
        raise _nothing_there(place)
    file = sets_folder() / place.file_name
    refuse_damaged(file, about["sha256"], f"remove {file.parent}: it is made again from the packs")
    return file


def set_origin(name: str) -> dict[str, Any]:
    """What `pack:...` is made of, for a run's provenance: packs with their hashes, records taken out as held out."""
    counts = set_counts()
    about = next(row for row in counts["sets"] if row["set"] == name)
    return {
        "packs": counts["packs"],
        "heldout_queries": counts["heldout_queries"],
        "removed_as_heldout": about["removed_as_heldout"],
    }


def set_counts() -> dict[str, Any]:
    """What `sets.json` says of the packs that are there; the sets are made unless they are.

    `packs` with the hashes of their archives and folders, `heldout_queries` that were kept out
    of training, and `sets`: a row each with its records, how many have a reference, and how
    many were taken out for repeating a held-out query, exactly or nearly.
    """
    names = fetched_packs()
    if not names:
        return {"packs": [], "heldout_queries": 0, "sets": []}
    counts: dict[str, Any] = read_json(_ready(names) / _COUNTS)
    return counts


def sets_folder() -> Path:
    """Where the sets of the packs that are there lie."""
    return _folder(fetched_packs())


def sample_files(name: str) -> list[Path]:
    """The file of that name of every domain in sample_data."""
    return sorted((PROJECT_ROOT / "sample_data" / "prompts").glob(f"*/{name}.jsonl"))


def sample_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file of sample_data."""
    source = PromptSource(path=str(path))
    rows = read_jsonl(path, source)
    return [to_prompt(row.record, source, f"{path.stem}-{row.line}") for row in rows if row.record is not None]


def _folder(names: Sequence[str]) -> Path:
    heldout = [[path.parent.name, sha256_file(path)] for path in sample_files("heldout")]
    made_of = content_hash([_RULES, [pack_folder(name).name for name in names], heldout])
    return packs_folder() / f"sets-{made_of[:12]}"


def _ready(names: Sequence[str]) -> Path:
    """The sets' folder, made unless it is there. Processes that ask at once wait for the first."""
    folder = _folder(names)
    if not (folder / _COUNTS).exists():
        with disk_errors(folder), FileLock(folder.parent / ".sets.lock"):
            if not (folder / _COUNTS).exists():
                _make(names, folder)
    return folder


def _make(names: Sequence[str], folder: Path) -> None:
    for left in folder.parent.glob(".sets-*"):  # by a kill; this process holds the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".sets-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        heldout = [entry for name in names for entry in read_side(name, "heldout")]
        train = [entry for name in names for entry in read_side(name, "train")]
        queries = [as_prompt(entry) for entry in heldout]
        queries += [prompt for path in sample_files("heldout") for prompt in sample_prompts(path)]
        _, repeats = remove_overlap([as_prompt(entry) for entry in train], queries)
        rows = _write_sets(made, {"train": train, "heldout": heldout}, {r.prompt_id: r for r in repeats})
        packs = [
            {"name": name, "archive_sha256": describe_pack(name)["archive_sha256"], "built": pack_folder(name).name}
            for name in names
        ]
        write_json(made / _COUNTS, {"packs": packs, "heldout_queries": len(queries), "sets": rows})
        os.replace(made, folder)


def _write_sets(folder: Path, sides: dict[Side, list[Entry]], repeats: dict[str, Repeat]) -> list[dict[str, Any]]:
    rows = []
    for place in PLACES.values():
        here = [e for e in sides[place.side] if (e["domain"], e["scenario"]) == place[:2]]
        kept = sorted((entry for entry in here if entry["id"] not in repeats), key=order_key)
        if kept:
            write_entries(folder / place.file_name, kept)
            kinds = [repeats[entry["id"]].kind for entry in here if entry["id"] in repeats]
            rows.append(
                {
                    "set": place.name,
                    "records": len(kept),
                    "with_reference": sum("reference" in entry for entry in kept),
                    "removed_as_heldout": {"exact": kinds.count("exact"), "near": kinds.count("near")},
                    "sha256": sha256_file(folder / place.file_name),
                }
            )
    return rows


# Which packs give a set: told when none of them is there.
GIVERS: dict[tuple[Domain, Scenario], tuple[str, ...]] = {
    ("general", "historical"): ("pyserini",),
    ("general", "curated"): ("llamafactory",),
    ("function_calling", "historical"): ("bfcl",),
    ("function_calling", "curated"): ("bfcl", "llamafactory"),
    ("biology", "historical"): ("pyserini",),
    ("biology", "curated"): ("evals", "llamafactory"),
    ("chinese", "historical"): ("pyserini",),
    ("chinese", "curated"): ("llamafactory", "jionlp", "evals"),
}


def _nothing_there(place: Place) -> DraftbenchError:
    missing = [name for name in GIVERS[place.domain, place.scenario] if not is_fetched(name)]
    sizes = ", ".join(f"{name} ({PACKS[name].size_bytes / 1e6:.0f} MB)" for name in missing)
    return DraftbenchError(
        f"{place.name}: no pack with such prompts is fetched",
        f"prompts of this kind come with {sizes or 'no pack of this version'}",
        f"draftbench data fetch {' '.join(missing)}",
    )
