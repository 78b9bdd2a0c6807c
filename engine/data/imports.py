"""A user's own chat logs as training and held-out prompts.

Row by row: read, cut where the answer began, scrub personal data, take out repeats, split by
conversation and by tool set with the packs' own rule, and keep held-out queries out of the
training side. Each step says how much it took out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from engine.data.logs import LogSource, Query, queries_of
from engine.data.overlap import remove_overlap
from engine.data.packs.build import write_entries
from engine.data.packs.entry import Entry, Side, as_prompt
from engine.data.packs.filters import find_repeats, tool_names
from engine.data.packs.split import HELDOUT_SHARE, side_of
from engine.data.pii import Scrubber
from engine.data.readers import BadRow, open_source
from engine.data.records import BadRecordError
from engine.data.whole_folder import refuse_existing, whole_folder
from engine.errors import DraftbenchError
from engine.fileio import sha256_file, write_json

MARKER = "import.json"
LICENCE = "private"
NOT_FOUND = "names and postal addresses have no form of their own: they are not looked for"
# With fewer sets of tools than this one side could be left without any: conversations are split instead.
_FEWEST_TOOL_SETS = 20
_FEW_HELDOUT = 20
_SHOWN = 5


@dataclass(frozen=True)
class ImportOptions:
    """What becomes of the log's rows. `heldout_share` is of the conversations, or of the sets of tools."""

    domain: str = "general"
    scenario: str = "historical"
    every_turn: bool = False
    keep_pii: bool = False
    skip_bad: bool = False
    heldout_share: float = HELDOUT_SHARE


@dataclass
class _Steps:
    """The table of what each step took out."""

    left: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    def took(self, step: str, removed: int) -> None:
        self.left -= removed
        self.rows.append({"step": step, "removed": removed, "left": self.left})


def import_logs(
    sources: Sequence[LogSource], out: Path, options: ImportOptions, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write `out`/train.jsonl, heldout.jsonl and import.json; returns what import.json says.

    Same input, same bytes. Raises DraftbenchError for sources that cannot be read, for bad
    rows unless `options.skip_bad`, if no training prompt is left, and if `out` exists (with
    `overwrite`: if it is no import).
    """
    _check(options)
    refuse_existing(out, MARKER, overwrite=overwrite)
    queries, bad, files = _read(sources, options)
    read = sum(file["rows"] for file in files)
    steps = _Steps(read)
    steps.took("is no conversation", len(bad))
    steps.left = len(queries)
    steps.rows.append({"step": "cut where an answer begins", "removed": 0, "left": len(queries)})
    entries, found = _entries(queries, options)
    conversations = {entry["id"]: query.conversation for entry, query in zip(entries, queries, strict=True)}
    repeats = find_repeats(entries)
    for kind in ("exact", "near"):
        steps.took(f"{kind} repeat of an earlier one", sum(other == kind for other in repeats.values()))
    fresh = [entry for entry in entries if entry["id"] not in repeats]
    tool_sets = {tool_names(entry) for entry in fresh} - {()}
    few_tool_sets = 0 < len(tool_sets) < _FEWEST_TOOL_SETS
    sides = _split(fresh, conversations, options.heldout_share, by_tools=not few_tool_sets)
    train = _unseen(sides["train"], sides["heldout"], steps, by_tools=bool(tool_sets) and not few_tool_sets)
    _refuse_nothing(train, read)
    told = {
        "schema": 1,
        "options": asdict(options),
        "files": files,
        "steps": steps.rows,
        "bad_rows": len(bad),
        "pii": {"scrubbed": not options.keep_pii, **found, "remark": NOT_FOUND},
        "split_by": "conversation and set of tools" if tool_sets and not few_tool_sets else "conversation",
        "tool_sets": len(tool_sets),
        "counts": {
            "train": len(train),
            "heldout": len(sides["heldout"]),
            "train_with_reference": sum("reference" in entry for entry in train),
            "heldout_with_reference": sum("reference" in entry for entry in sides["heldout"]),
        },
        "notes": _notes(len(sides["heldout"]), few_tool_sets),
    }
    with whole_folder(out, MARKER, overwrite=overwrite) as folder:
        told["written"] = {
            side: _written(folder / f"{side}.jsonl", entries)
            for side, entries in (("train", train), ("heldout", sides["heldout"]))
        }
        write_json(folder / MARKER, told)
    return told


def _check(options: ImportOptions) -> None:
    if not 0 < options.heldout_share < 1:
        raise DraftbenchError(
            f"the held-out share is {options.heldout_share:g}",
            "both sides need prompts",
            "give --heldout-share between 0 and 1, for example 0.12",
        )


def _read(
    sources: Sequence[LogSource], options: ImportOptions
) -> tuple[list[Query], list[BadRow], list[dict[str, Any]]]:
    """The queries of all files in order of time, the rows that hold none, and a description of each file."""
    queries: list[Query] = []
    bad: list[BadRow] = []
    files: list[dict[str, Any]] = []
    taken: set[str] = set()
    for number, source in enumerate(sources, 1):
        rows, sha256 = open_source(source, None)
        name, count = Path(source.path).name, 0
        stem = Path(source.path).stem + (f"-{number}" if len(sources) > 1 else "")
        for row in rows:
            count += 1
            try:
                if row.record is None:
                    raise BadRecordError(row.problem)
                fresh = queries_of(row.record, source, f"{stem}-{row.line}", every_turn=options.every_turn)
                _refuse_taken(fresh, taken)
                queries += fresh
            except BadRecordError as error:
                bad.append(BadRow(source.path, row.line, str(error)))
        mapping = {key: value for key, value in source.model_dump().items() if key.endswith("_column")}
        files.append({"file": name, "sha256": sha256, "rows": count, "columns": mapping})
    if not queries or (bad and not options.skip_bad):
        raise _bad_rows(bad, sum(file["rows"] for file in files))
    return sorted(queries, key=lambda query: query.time), bad, files


def _bad_rows(bad: Sequence[BadRow], rows: int) -> DraftbenchError:
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in bad[:_SHOWN]]
    lines += [f"  ... and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return DraftbenchError(
        "\n".join([f"{len(bad)} of {rows} rows are no conversations:", *lines]),
        "leaving them out silently would change what the draft is trained and measured on",
        "name the columns (--messages-column, --prompt-column, --id-column ...), or go on without these rows: --skip-bad",
    )


def _refuse_taken(queries: Sequence[Query], taken: set[str]) -> None:
    for query in queries:
        if query.prompt.id in taken:
            raise BadRecordError(f"the id {query.prompt.id!r} was used before")
    taken.update(query.prompt.id for query in queries)


def _entries(queries: Sequence[Query], options: ImportOptions) -> tuple[list[Entry], dict[str, Any]]:
    """Records of the queries, scrubbed conversation by conversation, and what was found."""
    scrubbers: dict[str, Scrubber] = {}
    entries, touched = [], 0
    for query in queries:
        scrubber = scrubbers.setdefault(query.conversation, Scrubber())
        before = scrubber.counts.total()
        entries.append(_entry(query, options, None if options.keep_pii else scrubber))
        touched += scrubber.counts.total() > before
    found: Counter[str] = Counter()
    for scrubber in scrubbers.values():
        found.update(scrubber.counts)
    return entries, {"found": dict(sorted(found.items())), "prompts": touched}


def _entry(query: Query, options: ImportOptions, scrubber: Scrubber | None) -> Entry:
    prompt = query.prompt

    def clean(value: Any) -> Any:
        return scrubber.value(value) if scrubber else value

    # Tools first: what stands in them is the same in all conversations, and so are its placeholders.
    tools = clean(list(prompt.tools))
    entry: dict[str, Any] = {
        "id": prompt.id if scrubber is None or Scrubber().text(prompt.id) == prompt.id else query.fallback_id,
        "domain": options.domain,
        "scenario": options.scenario,
        "messages": clean(list(prompt.messages)),
        "source": "own log",
        "licence": LICENCE,
    }
    entry |= {"tools": tools} if tools else {}
    entry |= {"reference": clean(query.reference)} if query.reference else {}
    entry |= {"group": clean(prompt.group)} if prompt.group else {}
    return cast(Entry, entry)


def _split(
    entries: Sequence[Entry], conversations: Mapping[str, str], share: float, *, by_tools: bool
) -> dict[Side, list[Entry]]:
    """Each side's records by the packs' own rule. A conversation goes where its first record goes."""
    side_of_conversation: dict[str, Side] = {}
    sides: dict[Side, list[Entry]] = {"train": [], "heldout": []}
    for entry in entries:
        conversation = conversations[entry["id"]]
        if conversation not in side_of_conversation:
            judged = entry if by_tools else {key: value for key, value in entry.items() if key != "tools"}
            side_of_conversation[conversation] = side_of(cast(Entry, judged), share)
        sides[side_of_conversation[conversation]].append(entry)
    return sides


def _unseen(train: Sequence[Entry], heldout: Sequence[Entry], steps: _Steps, *, by_tools: bool) -> list[Entry]:
    """The training records that show nothing of the held-out side."""
    steps.took("is held out", len(heldout))
    if by_tools:  # a conversation that changed its tools can bring a set to both sides
        sets = {tool_names(entry) for entry in heldout} - {()}
        fresh = [entry for entry in train if tool_names(entry) not in sets]
        steps.took("has a held-out set of tools", len(train) - len(fresh))
        train = fresh
    _, repeats = remove_overlap([as_prompt(e) for e in train], [as_prompt(e) for e in heldout])
    for kind in ("exact", "near"):
        steps.took(f"{kind} repeat of a held-out one", sum(repeat.kind == kind for repeat in repeats))
    gone = {repeat.prompt_id for repeat in repeats}
    return [entry for entry in train if entry["id"] not in gone]


def _refuse_nothing(train: Sequence[Entry], rows: int) -> None:
    if not train:
        raise DraftbenchError(
            f"no training prompt is left of {rows} rows",
            "repeats and held-out conversations were taken out",
            "import more of the log, or give a smaller --heldout-share",
        )


def _notes(heldout: int, few_tool_sets: bool) -> list[str]:
    notes = []
    if heldout < _FEW_HELDOUT:
        notes.append(
            f"{heldout} held-out prompts are few to measure on: a larger --heldout-share, or more of the log, narrows the intervals"
        )
    if few_tool_sets:
        notes.append(f"with fewer than {_FEWEST_TOOL_SETS} sets of tools both sides have the same ones")
    return notes


def _written(path: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    write_entries(path, entries)
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size, "prompts": len(entries)}
