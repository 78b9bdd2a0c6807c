"""Make packs from datasets of the Hugging Face hub: `draftbench data fetch hub:NAME`.

None of them is fetched unless it is named, and some may not be used commercially: `pack.json` has the licence. A new
preset is one function in `preset_rows` and one `Preset`. Where there is no network, a folder in the same format
replaces the hub (`--from`).
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
from engine.data.packs.build import ABOUT, HUB, PackInfo, describe_pack, hub_folders, is_whole, packs_folder, write_pack
from engine.data.packs.catalogue import Pack
from engine.data.packs.entry import Domain, Entry
from engine.data.packs.preset_rows import RowContent, UnfitRowError, alpaca, camel, dolly, xlam
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import content_hash, disk_errors, read_object, write_json
from engine.paths import resolve_input

_READER_VERSION = 1  # goes up with every change to the record that a row becomes


@dataclass(frozen=True)
class Preset:
    """A dataset of the hub and how its rows become records."""

    dataset: str
    domain: Domain
    columns: tuple[str, ...]
    """Columns that are read; the first is the text."""
    read_row: Callable[[Mapping[str, Any]], RowContent]
    licence: str
    attribution: str
    about: str
    size_bytes: int
    more: tuple[str, ...] = ()
    """Columns that are read if they exist."""
    split: str = "train"
    gated: bool = False
    """Users must accept its owner's terms."""


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
        read_row=xlam,
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
        read_row=camel,
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
        read_row=alpaca,
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
        read_row=dolly,
        licence="CC BY-SA 3.0",
        attribution="databricks-dolly-15k (Databricks 2023); parts of Wikipedia",
        about="general: 15,000 instructions and answers, written by people (curated)",
        size_bytes=13_100_000,
    ),
}


def find_preset(name: str) -> Preset:
    """The preset `hub:NAME`. Raises DraftbenchError with the nearest known name for an unknown one."""
    short = name.removeprefix(HUB)
    if short not in PRESETS:
        known = [HUB + known for known in PRESETS]
        raise DraftbenchError(
            f"unknown preset {name!r}",
            "a preset knows the meaning of a dataset's columns",
            f"{did_you_mean(name, known)}; any other set can be named in a recipe: prompts.train: hub:ORG/NAME",
        )
    return PRESETS[short]


def fetch_preset(name: str, *, folder: str | None = None, revision: str | None = None) -> PackInfo:
    """Make a pack of `hub:NAME`, or of a `folder` in the same format, and return its description.

    An existing pack is used as it is unless `folder` or `revision` is given; then the new one replaces it once it is
    complete. Raises DraftbenchError if the hub cannot be reached or refuses access, or the dataset's columns changed.
    """
    preset = find_preset(name)

    def exists() -> bool:
        return is_whole(name) and folder is None and revision in (None, describe_pack(name).get("revision"))

    if exists():
        return describe_pack(name)
    with disk_errors(packs_folder()):
        packs_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(packs_folder() / f".{_stem(name)}.lock"):
            return describe_pack(name) if exists() else _make(name, preset, folder, revision)


def _stem(name: str) -> str:
    return name.replace(":", "-")


def _make(name: str, preset: Preset, folder: str | None, revision: str | None) -> PackInfo:
    parent = packs_folder()
    for leftover in parent.glob(f".{_stem(name)}-making-*"):  # of a killed process: this one holds the lock
        shutil.rmtree(leftover, ignore_errors=True)
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
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{_stem(name)}-making-") as temporary:
        built = Path(temporary) / "built"
        built.mkdir()
        write_pack(name, pack, Path(), built)
        info = read_object(built / ABOUT)
        info |= {"revision": revision, "read": info["read"] + unfit}
        info["removed"] = {"no record": unfit, **info["removed"]}
        write_json(built / ABOUT, info)
        final = parent / f"{_stem(name)}-{content_hash(info)[:12]}"
        if final.exists():  # with the same records, or damaged
            os.replace(final, Path(temporary) / "old")
        os.replace(built, final)
    for old in hub_folders(name):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return describe_pack(name)


def _entries(name: str, preset: Preset, folder: str | None, revision: str | None) -> tuple[list[Entry], int]:
    """Return the records, and the number of rows that could not become one."""
    entries: list[Entry] = []
    unfit = 0
    for row in _with_columns(preset, _rows(preset, folder, revision)):
        try:
            content = preset.read_row(row.record or {})
        except (UnfitRowError, KeyError):  # a key that is missing in one row only was null there
            unfit += 1
            continue
        entries.append(_entry(f"{_stem(name)}-{row.line}", preset, content))
    if not entries:
        raise _changed(preset, f"none of {unfit} rows could be read")
    return entries, unfit


def _with_columns(preset: Preset, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows; an error about missing columns, written for authors of recipes, becomes one about the preset."""
    try:
        yield from rows
    except DraftbenchError as error:
        if "has neither a column" not in error.what:
            raise
        raise _changed(preset, error.what) from error


def _changed(preset: Preset, detail: str) -> DraftbenchError:
    return DraftbenchError(
        f"{preset.dataset} does not have the columns {', '.join(preset.columns)} that this version expects: {detail}",
        "the dataset has changed its format, or the folder holds another one",
        "name a commit in the old format with --revision, or check the folder",
    )


def _entry(entry_id: str, preset: Preset, content: RowContent) -> Entry:
    entry: Entry = {
        "id": entry_id,
        "domain": preset.domain,
        "scenario": "curated",
        "messages": content["messages"],
        "source": preset.dataset,
        "licence": preset.licence,
    }
    if content.get("tools"):
        entry["tools"] = content["tools"]
    if content.get("reference"):
        entry["reference"] = content["reference"]
    if content.get("group"):
        entry["group"] = content["group"]
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
        raise _no_access(preset, error) from error


def _no_access(preset: Preset, error: DraftbenchError) -> DraftbenchError:
    """The error for a dataset that the hub refuses or that cannot be reached."""
    reason = str(error.__cause__ or error.what)
    page = f"https://huggingface.co/datasets/{preset.dataset}"
    local = f"or download its files elsewhere and give their folder: --from FOLDER ({preset.size_bytes / 1e6:.0f} MB)"
    if re.search(r"gated|\b40[13]\b|authenticat", reason, re.IGNORECASE):
        return DraftbenchError(
            f"the hub refuses access to {preset.dataset}: {reason}",
            "its owner requires each user to log in and accept the terms",
            f"accept them at {page}, log in with `hf auth login` and run the command again, {local}",
        )
    return DraftbenchError(
        f"could not load {preset.dataset} from the hub: {reason}",
        "it cannot be reached from here, or the dataset or revision no longer exists",
        f"check the network and {page}, {local}",
    )
