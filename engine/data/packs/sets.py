"""The sets that a recipe names `pack:<domain>/<scenario>` and `pack:<domain>/<scenario>-heldout`.

A set joins the records of all fetched packs. No training set contains a query that is held out anywhere: in another
pack, domain or scenario, or in sample_data. So the sets depend on the packs that are fetched, and are built together in
a folder named by a hash of everything they are built from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

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
from engine.fileio import atomic_folder, content_hash, disk_errors, read_object, sha256_file, write_json
from engine.paths import PROJECT_ROOT

PREFIX = "pack:"
_RULES = 4  # goes up with every change to how sets are built or described
_HELDOUT = "-heldout"
_COUNTS = "sets.json"


class RepeatCounts(TypedDict):
    """Records that repeated a held-out query."""

    exact: int
    near: int


class SetRow(TypedDict):
    """A set in `sets.json`."""

    set: str
    records: int
    with_reference: int
    removed_as_heldout: RepeatCounts
    sha256: str


class PackVersion(TypedDict):
    """A pack that the sets are built from; `built` is the name of its folder."""

    name: str
    archive_sha256: str
    built: str


class SetsInfo(TypedDict):
    """The contents of `sets.json`. `heldout_queries`: number of queries kept out of training."""

    packs: list[PackVersion]
    heldout_queries: int
    sets: list[SetRow]


class SetOrigin(TypedDict):
    """What a set was built from, in a run's provenance."""

    packs: list[PackVersion]
    heldout_queries: int
    removed_as_heldout: RepeatCounts


class PackSet(NamedTuple):
    """The domain, scenario and side of a set's records."""

    domain: Domain
    scenario: Scenario
    side: Side

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return f"{PREFIX}{self.domain}/{self.scenario}{_HELDOUT if self.side == 'heldout' else ''}"

    @property
    def file_name(self) -> str:
        return f"{self.domain}-{self.scenario}-{self.side}.jsonl"


PACK_SETS = {s.name: s for s in (PackSet(*key, side) for key in product(DOMAINS, SCENARIOS) for side in SIDES)}


def find_set(name: str) -> PackSet:
    """The set named `pack:<domain>/<scenario>[-heldout]`. Raises DraftbenchError for any other name."""
    if name not in PACK_SETS:
        raise DraftbenchError(
            f"{name!r} is not a set of the packs",
            "a set is named by domain and scenario, with -heldout for the side to measure on",
            did_you_mean(name, PACK_SETS),
        )
    return PACK_SETS[name]


def set_file(name: str) -> Path:
    """The JSON-lines file of a set, built if necessary. Raises DraftbenchError if no fetched pack has such records."""
    pack_set = find_set(name)
    row = next((row for row in set_counts()["sets"] if row["set"] == name), None)
    if row is None:
        raise _no_records(pack_set)
    file = sets_folder() / pack_set.file_name
    refuse_damaged(file, row["sha256"], f"remove {file.parent}: it is built again from the packs")
    return file


def set_origin(name: str) -> SetOrigin:
    """What a set was built from, for a run's provenance."""
    info = set_counts()
    row = next(row for row in info["sets"] if row["set"] == name)
    return {
        "packs": info["packs"],
        "heldout_queries": info["heldout_queries"],
        "removed_as_heldout": row["removed_as_heldout"],
    }


def set_counts() -> SetsInfo:
    """Describe the sets of the fetched packs, after building them if necessary.

    Concurrent callers wait for the first.
    """
    names = fetched_packs()
    if not names:
        return {"packs": [], "heldout_queries": 0, "sets": []}
    folder = _folder(names)
    if not (folder / _COUNTS).exists():
        with disk_errors(folder), FileLock(folder.parent / ".sets.lock"):
            if not (folder / _COUNTS).exists():
                _build(names, folder)
    return cast(SetsInfo, read_object(folder / _COUNTS))


def sets_folder() -> Path:
    """The folder of the sets of the fetched packs."""
    return _folder(fetched_packs())


def sample_files(name: str) -> list[Path]:
    """The files of that name in all domains of sample_data."""
    return sorted((PROJECT_ROOT / "sample_data" / "prompts").glob(f"*/{name}.jsonl"))


def sample_prompts(path: Path) -> list[Prompt]:
    """Read the prompts of a file in sample_data."""
    source = PromptSource(path=str(path))
    rows = read_jsonl(path, source)
    return [to_prompt(row.record, source, f"{path.stem}-{row.line}") for row in rows if row.record is not None]


def _folder(names: Sequence[str]) -> Path:
    heldout = [[path.parent.name, sha256_file(path)] for path in sample_files("heldout")]
    sources = content_hash([_RULES, [pack_folder(name).name for name in names], heldout])
    return packs_folder() / f"sets-{sources[:12]}"


def _build(names: Sequence[str], folder: Path) -> None:
    with atomic_folder(folder) as new:
        heldout = [entry for name in names for entry in read_side(name, "heldout")]
        train = [entry for name in names for entry in read_side(name, "train")]
        queries = [as_prompt(entry) for entry in heldout]
        queries += [prompt for path in sample_files("heldout") for prompt in sample_prompts(path)]
        _, repeats = remove_overlap([as_prompt(entry) for entry in train], queries)
        rows = _write_sets(new, {"train": train, "heldout": heldout}, {r.prompt_id: r for r in repeats})
        packs: list[PackVersion] = [
            {"name": name, "archive_sha256": describe_pack(name)["archive_sha256"], "built": pack_folder(name).name}
            for name in names
        ]
        info: SetsInfo = {"packs": packs, "heldout_queries": len(queries), "sets": rows}
        write_json(new / _COUNTS, info)


def _write_sets(folder: Path, sides: dict[Side, list[Entry]], repeats: dict[str, Repeat]) -> list[SetRow]:
    rows: list[SetRow] = []
    for pack_set in PACK_SETS.values():
        entries = [e for e in sides[pack_set.side] if (e["domain"], e["scenario"]) == pack_set[:2]]
        kept = sorted((entry for entry in entries if entry["id"] not in repeats), key=order_key)
        if kept:
            path = folder / pack_set.file_name
            write_entries(path, kept)
            kinds = [repeats[entry["id"]].kind for entry in entries if entry["id"] in repeats]
            rows.append(
                {
                    "set": pack_set.name,
                    "records": len(kept),
                    "with_reference": sum("reference" in entry for entry in kept),
                    "removed_as_heldout": {"exact": kinds.count("exact"), "near": kinds.count("near")},
                    "sha256": sha256_file(path),
                }
            )
    return rows


def _no_records(pack_set: PackSet) -> DraftbenchError:
    key = (pack_set.domain, pack_set.scenario)
    missing = [name for name, pack in PACKS.items() if key in pack.gives and not is_fetched(name)]
    sizes = ", ".join(f"{name} ({PACKS[name].size_bytes / 1e6:.0f} MB)" for name in missing)
    return DraftbenchError(
        f"{pack_set.name}: no fetched pack has such prompts",
        f"these packs have them: {sizes}" if sizes else "no pack of this version has them",
        f"draftbench data fetch {' '.join(missing)}",
    )
