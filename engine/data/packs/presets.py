"""Sets of the Hugging Face hub that become packs: `draftbench data fetch hub:NAME`.

Nothing here is fetched by itself, and some of it may not be used commercially: `pack.json`
carries the licence. A new preset is one function in `preset_rows` and one `Preset`.
A folder in the same format takes the hub's place where there is no network (`--from`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from engine.config.schema import PromptSource
from engine.data.formats import Row, read_folder, read_hub
from engine.data.packs.build import ABOUT, HUB, describe_pack, hub_folders, is_whole, packs_folder, write_pack
from engine.data.packs.catalogue import Pack
from engine.data.packs.entry import Domain, Entry
from engine.data.packs.preset_rows import Told, UnfitRowError, alpaca, camel, dolly, xlam
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import content_hash, disk_errors, read_json, write_json
from engine.paths import resolve_input

_READER_VERSION = 1  # goes up with a change to what a row becomes


@dataclass(frozen=True)
class Preset:
    """A dataset of the hub: where it lies, which columns are read and what a row becomes.

    `columns` must be there, `more` may be. `gated`: its owner wants terms to be accepted.
    """

    dataset: str
    domain: Domain
    columns: tuple[str, ...]
    as_told: Callable[[Mapping[str, Any]], Told]
    licence: str
    attribution: str
    about: str
    size_bytes: int
    more: tuple[str, ...] = ()
    split: str = "train"
    gated: bool = False


class _HubSource(PromptSource):
    """A dataset whose columns are not those of prompts."""

    names: tuple[str, ...]

    def columns(self) -> tuple[str, ...]:
        return self.names


PRESETS: dict[str, Preset] = {
    "xlam": Preset(
        dataset="Salesforce/xlam-function-calling-60k",
        domain="function_calling",
        columns=("query", "tools", "answers"),
        as_told=xlam,
        licence="CC BY 4.0",
        attribution="APIGen function-calling datasets (Liu et al. 2024, Salesforce AI Research)",
        about="function calling: 60,000 queries with tools and verified calls, written by models (curated)",
        size_bytes=96_000_000,
        gated=True,
    ),
    "camel-biology": Preset(
        dataset="camel-ai/biology",
        domain="biology",
        columns=("message_1", "message_2"),
        more=("topic;", "topic"),
        as_told=camel,
        licence="CC BY-NC 4.0: not for commercial use",
        attribution="CAMEL (Li et al. 2023)",
        about="biology: 20,000 problems and solutions over 25 topics, written by GPT-4 (curated)",
        size_bytes=27_400_000,
    ),
    "alpaca-zh": Preset(
        dataset="shibing624/alpaca-zh",
        domain="chinese",
        columns=("instruction", "output"),
        more=("input",),
        as_told=alpaca,
        licence="CC BY-NC 4.0 by its description (CC BY 4.0 by its label): not for commercial use",
        attribution="Instruction Tuning with GPT-4 (Peng et al. 2023)",
        about="Chinese: 48,818 instructions and answers, written by GPT-4 (curated)",
        size_bytes=35_100_000,
    ),
    "dolly": Preset(
        dataset="databricks/databricks-dolly-15k",
        domain="general",
        columns=("instruction", "response"),
        more=("context", "category"),
        as_told=dolly,
        licence="CC BY-SA 3.0",
        attribution="databricks-dolly-15k (Databricks 2023); parts of Wikipedia",
        about="general: 15,000 instructions and answers, written by people (curated)",
        size_bytes=13_100_000,
    ),
}


def find_preset(name: str) -> Preset:
    """The preset `hub:NAME`; an unknown one is refused with the nearest known name."""
    short = name.removeprefix(HUB)
    if short not in PRESETS:
        known = [HUB + known for known in PRESETS]
        raise DraftbenchError(
            f"unknown preset {name!r}",
            "a preset knows what the columns of a dataset mean",
            f"{did_you_mean(name, known)}; any other set can be named in a recipe: prompts.train: hub:ORG/NAME",
        )
    return PRESETS[short]


def fetch_preset(name: str, *, folder: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The description of the pack made of `hub:NAME`, or of a `folder` in the same format.

    One that is there is taken as it is, unless `folder` or `revision` asks for another. Then
    the new one takes its place once it is whole. Raises DraftbenchError if the hub cannot be
    reached, does not give the set out, or the set has other columns than it had.
    """
    preset = find_preset(name)

    def is_there() -> bool:
        return is_whole(name) and folder is None and revision in (None, describe_pack(name).get("revision"))

    if is_there():
        return describe_pack(name)
    with disk_errors(packs_folder()):
        packs_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(packs_folder() / f".{_stem(name)}.lock"):
            return describe_pack(name) if is_there() else _make(name, preset, folder, revision)


def _stem(name: str) -> str:
    return name.replace(":", "-")


def _make(name: str, preset: Preset, folder: str | None, revision: str | None) -> dict[str, Any]:
    parent = packs_folder()
    for left in parent.glob(f".{_stem(name)}-making-*"):  # of a killed process: this one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    entries, unfit = _entries(name, preset, folder, revision)
    pack = Pack(
        requirement=("a folder like " if folder else HUB) + preset.dataset + (f" at {revision}" if revision else ""),
        sha256=content_hash(entries),
        size_bytes=preset.size_bytes,
        read=lambda _: iter(entries),
        reader_version=_READER_VERSION,
        licence=preset.licence,
        attribution=f"{preset.attribution}, https://huggingface.co/datasets/{preset.dataset}",
        about=preset.about,
    )
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{_stem(name)}-making-") as room:
        built = Path(room) / "built"
        built.mkdir()
        write_pack(name, pack, Path(), built)
        described = read_json(built / ABOUT)
        described |= {"revision": revision, "read": described["read"] + unfit}
        described["removed"] = {"no record": unfit, **described["removed"]}
        write_json(built / ABOUT, described)
        final = parent / f"{_stem(name)}-{content_hash(described)[:12]}"
        if final.exists():  # the same records, or damaged ones
            os.replace(final, Path(room) / "old")
        os.replace(built, final)
    for old in hub_folders(name):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return describe_pack(name)


def _entries(name: str, preset: Preset, folder: str | None, revision: str | None) -> tuple[list[Entry], int]:
    """A record for each row, and the number of rows that none could be made of."""
    entries: list[Entry] = []
    unfit = 0
    for row in _with_columns(preset, _rows(preset, folder, revision)):
        try:
            told = preset.as_told(row.record or {})
        except (UnfitRowError, KeyError):  # a key that is missing in one row only was null there
            unfit += 1
            continue
        entries.append(_entry(f"{_stem(name)}-{row.line}", preset, told))
    if not entries:
        raise _changed(preset, f"none of {unfit} rows could be read")
    return entries, unfit


def _with_columns(preset: Preset, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; what a recipe's author is told about missing columns is told of the preset instead."""
    try:
        yield from rows
    except DraftbenchError as error:
        if "has neither a column" not in error.what:
            raise
        raise _changed(preset, error.what) from error


def _changed(preset: Preset, found: str) -> DraftbenchError:
    return DraftbenchError(
        f"{preset.dataset} has not the columns {', '.join(preset.columns)} that this version knows: {found}",
        "the dataset has changed its form, or the folder holds another one",
        "name a commit of that form with --revision, or check the folder",
    )


def _entry(identity: str, preset: Preset, told: Told) -> Entry:
    entry: Entry = {
        "id": identity,
        "domain": preset.domain,
        "scenario": "curated",
        "messages": told["messages"],
        "source": preset.dataset,
        "licence": preset.licence,
    }
    for key in ("tools", "reference", "group"):
        if told.get(key):
            entry[key] = told[key]
    return entry


def _rows(preset: Preset, folder: str | None, revision: str | None) -> Iterator[Row]:
    source = _HubSource(
        path=folder or HUB + preset.dataset,
        split=preset.split,
        revision=None if folder else revision,
        prompt_column=preset.columns[0],
        names=(*preset.columns, *preset.more),
    )
    if folder is not None:
        return read_folder(resolve_input(folder), source)
    try:
        return read_hub(preset.dataset, source)
    except DraftbenchError as error:
        raise _not_given(preset, error) from error


def _not_given(preset: Preset, error: DraftbenchError) -> DraftbenchError:
    """What the hub refused, and what to do about it."""
    told = str(error.__cause__ or error.what)
    page = f"https://huggingface.co/datasets/{preset.dataset}"
    local = f"or download its files elsewhere and give their folder: --from FOLDER ({preset.size_bytes / 1e6:.0f} MB)"
    if re.search(r"gated|\b40[13]\b|authenticat", told, re.IGNORECASE):
        return DraftbenchError(
            f"the hub does not give out {preset.dataset}: {told}",
            "its owner wants each user to log in and accept the terms",
            f"accept them at {page}, log in with `hf auth login` and run the command again, {local}",
        )
    return DraftbenchError(
        f"could not load {preset.dataset} from the hub: {told}",
        "it is not reachable from here, or the set or revision is not there any more",
        f"check the network and {page}, {local}",
    )
