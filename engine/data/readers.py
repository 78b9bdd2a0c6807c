"""Read prompts from the sources that a recipe names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from engine.chat.prompt import Prompt, prompts_hash
from engine.config.schema import PromptSource
from engine.data.columns import ColumnUse, Usage
from engine.data.formats import (
    FILE_READERS,
    MAX_FILE_BYTES,
    Row,
    read_file,
    read_folder,
    read_hub,
    unread_of_folder,
    unused_of_folder,
)
from engine.data.packs.sets import PREFIX, SetOrigin, set_file, set_origin
from engine.data.records import BadRecordError, to_prompt
from engine.errors import DraftbenchError, boundary
from engine.fileio import content_hash, sha256_file
from engine.paths import resolve_input
from engine.untrusted.regular_files import printable, regular_files, require_regular

_HUB = "hub:"
_PARTS = ("split", "config", "revision")  # of a source that has several
_SHOWN = 5
_MAX_TRANSLATIONS = 12
_MAX_CHARACTERS = 512 * 1024**2  # of one source


@dataclass(frozen=True)
class BadRow:
    """A row that is no prompt: the source as the recipe names it, the line or row from 1, and the reason."""

    file: str
    line: int
    reason: str


class SourceInfo(ColumnUse):
    """A source of prompts in `provenance.json`."""

    path: str
    sha256: str
    """Of a file's bytes, of the names and bytes of a folder's files, or, for the hub, of the prompts themselves."""
    rows: int
    """Rows read, bad ones included."""
    origin: NotRequired[SetOrigin]
    translated: NotRequired[dict[str, int]]
    """Translation into the normal form -> count."""
    unread: NotRequired[list[str]]
    """Data files of a folder that Datasets takes into no split."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts of some sources in order, the rows that were left out, and the sources."""

    prompts: list[Prompt]
    bad: list[BadRow]
    sources: list[SourceInfo]


def read_prompts(
    sources: Sequence[PromptSource],
    *,
    skip_bad: bool = False,
    relative_to: Path | None = None,
    stored: bool = False,
) -> PromptSet:
    """Read all prompts of `sources`, each with a unique id.

    A record without an `id` gets `<file stem>-<line>`. `relative_to` is the recipe's folder. Raises DraftbenchError for
    a source that cannot be read or has no prompt, unless `stored` (the sources of a run that there is already) for one
    with settings that have no use, and unless `skip_bad` for any bad row.
    """
    whole = PromptSet([], [], [])
    taken: set[str] = set()
    for source, stem in zip(sources, _stems(sources), strict=True):
        part = _read_source(source, stem, taken, relative_to, stored)
        whole.prompts.extend(part.prompts)
        whole.bad.extend(part.bad)
        whole.sources.extend(part.sources)
    if whole.bad and not skip_bad:
        raise DraftbenchError(
            _listed(
                whole.bad, f"{len(whole.bad)} of {sum(info['rows'] for info in whole.sources)} rows are not prompts"
            ),
            "leaving them out silently would change the set of prompts",
            "correct them, or leave them out: --skip-bad (`prompts.skip_bad: true`)",
        )
    return whole


def _read_source(source: PromptSource, stem: str, taken: set[str], relative_to: Path | None, stored: bool) -> PromptSet:
    """Read the prompts of one source, and add their ids to `taken`."""
    rows, sha256 = open_source(source, relative_to, stored=stored)
    prompts: list[Prompt] = []
    bad: list[BadRow] = []
    usage, seen = Usage(source), Counter[str]()
    characters = 0
    for row in rows:
        try:
            prompts.append(_prompt_of(row, source, f"{stem}-{row.line}", taken, usage, seen))
            characters += sum(len(message["content"]) for message in prompts[-1].messages)
            if characters > _MAX_CHARACTERS:  # a few bytes of Parquet can stand for any number of prompts
                raise DraftbenchError(
                    f"{source.path} holds more than {_MAX_CHARACTERS:,} characters of prompts",
                    "all prompts of a run are kept in memory",
                    "take fewer with `limit`, or split the file",
                )
        except BadRecordError as error:
            bad.append(BadRow(source.path, row.line, str(error)))
        if len(prompts) == source.limit:
            break
    usage.refuse_unseen()
    if not prompts:
        raise _nothing_in(source, bad)
    rows_read = len(prompts) + len(bad)
    info: SourceInfo = {"path": source.path, "sha256": sha256 or prompts_hash(prompts), "rows": rows_read}
    if source.path.startswith(PREFIX):
        info["origin"] = set_origin(source.path)
    info = {**info, **usage.summary()}
    if unread := unread_files(source, relative_to):
        info["unread"] = unread
    if translated := dict((+seen).most_common(_MAX_TRANSLATIONS)):
        info["translated"] = translated
    return PromptSet(prompts, bad, [info])


def _prompt_of(
    row: Row, source: PromptSource, fallback_id: str, taken: set[str], usage: Usage, seen: Counter[str]
) -> Prompt:
    if row.record is None:
        raise BadRecordError(row.problem)
    usage.see(row.record, row.others)
    prompt = to_prompt(row.record, source, fallback_id, seen)
    if prompt.id in taken:
        raise BadRecordError(f"the id {prompt.id!r} was used before")
    taken.add(prompt.id)
    return prompt


def open_source(
    source: PromptSource, relative_to: Path | None, *, stored: bool = False
) -> tuple[Iterator[Row], str | None]:
    """Return the rows of a source and the hash of its bytes; None for the hub, whose files are not at hand.

    Raises DraftbenchError if it cannot be opened, unless `stored` if it has settings that would not be used, and, while
    rows are read, if the whole source is unusable.
    """
    if source.path.startswith(_HUB):
        return read_hub(source.path.removeprefix(_HUB), source), None
    path = set_file(source.path) if source.path.startswith(PREFIX) else resolve_input(source.path, relative_to)
    with boundary(f"cannot read {printable(source.path)}", "check the path and its permissions"):
        if not stored:
            _refuse_unused(source, path)
        if path.is_dir():
            files = regular_files(path, MAX_FILE_BYTES, source.path)  # before Datasets opens what may not be a file
            sha256 = content_hash([[file.relative_to(path).as_posix(), sha256_file(file)] for file in files])
            return read_folder(path, source), sha256
        reader = read_file(path, source)
        require_regular(path, MAX_FILE_BYTES, source.path)
        return reader, sha256_file(path)


def _refuse_unused(source: PromptSource, path: Path) -> None:
    """Raise DraftbenchError for settings that a source of this machine is read without."""
    unused = _PARTS if path.is_file() else unused_of_folder(path)
    fields = PromptSource.model_fields
    given = [f"{name} {value!r}" for name in unused if (value := getattr(source, name)) != fields[name].default]
    if given:
        raise DraftbenchError(
            f"{printable(source.path)} is read without the {' and the '.join(given)} that is named",
            "a file has no splits, configurations or versions"
            if path.is_file()
            else "a folder has no versions; one that Datasets saved has no configurations, and no splits if it is one",
            "leave that out, or name a source that has it: hub:NAME, or a Datasets folder",
        )


def unread_files(source: PromptSource, relative_to: Path | None) -> list[str]:
    """The data files of a folder that Datasets takes into no split; empty for any other source."""
    if source.path.startswith((_HUB, PREFIX)):
        return []
    path = resolve_input(source.path, relative_to)
    return unread_of_folder(path, source) if path.is_dir() else []


def _stems(sources: Sequence[PromptSource]) -> list[str]:
    """The prefix of generated ids per source: the file's stem, with its folder where two sources share a stem, and a
    number where they share both.

    For a folder or a hub dataset it is the last part of its name and the split.
    Several domains in one recipe usually come as <domain>/train.jsonl.
    """
    paths = [Path(source.path.removeprefix(_HUB)) for source in sources]
    stems = [
        path.stem if path.suffix.lower() in FILE_READERS else f"{path.name}-{source.split}"
        for path, source in zip(paths, sources, strict=True)
    ]
    counts = Counter(stems)
    stems = [
        f"{path.parent.name}-{stem}" if counts[stem] > 1 else stem for path, stem in zip(paths, stems, strict=True)
    ]
    # The same source twice keeps one prefix, so that its rows are refused as repeated.
    alike: dict[str, list[PromptSource]] = {}
    for stem, source in zip(stems, sources, strict=True):
        if source not in (others := alike.setdefault(stem, [])):
            others.append(source)
    numbers = [alike[stem].index(source) for stem, source in zip(stems, sources, strict=True)]
    return [f"{stem}-b{number + 1}" if number else stem for stem, number in zip(stems, numbers, strict=True)]


def _nothing_in(source: PromptSource, bad: Sequence[BadRow]) -> DraftbenchError:
    if not bad:
        return DraftbenchError(f"{source.path} is empty: it has no rows", "", "give a source with prompts in it")
    return DraftbenchError(
        _listed(bad, f"{source.path} has no valid row ({len(bad)} bad)"),
        "there is nothing to train or measure on",
        "correct the rows, or name the right columns with `messages_column` or `prompt_column`",
    )


def _listed(bad: Iterable[BadRow], heading: str) -> str:
    """`heading` and the first few bad rows, one per line."""
    rows = list(bad)
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in rows[:_SHOWN]]
    more = [f"  ... and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    return "\n".join([heading + ":", *lines, *more])
