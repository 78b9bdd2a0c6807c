"""Turn a user's own chat logs into training and held-out prompts.

Rows are read, cut where the answer begins, scrubbed of personal data, freed of repeats, and split by conversation and
by tool set with the rule of the packs; held-out queries are kept out of the training side. Each step counts what it
removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from engine.data.overlap import remove_overlap, repeats_in_context
from engine.data.packs.build import write_entries
from engine.data.packs.entry import Entry, Side, as_prompt
from engine.data.packs.filters import tool_names
from engine.data.packs.split import HELDOUT_SHARE, side_of
from engine.data.readers import BadRow
from engine.errors import DraftbenchError
from engine.fileio import sha256_file, write_json
from engine.logs.files import Log, LogFile, ids_of, read_logs
from engine.logs.output import output_folder, refuse_existing
from engine.logs.pii import Scrubber
from engine.logs.queries import LogSource, Query

MARKER = "import.json"
LICENCE = "private"
REMARK = (
    "e-mail addresses, numbers and keys of a recognisable form were replaced; names and postal addresses were not: "
    "look at a sample before you share it"
)
KEPT = "personal data and keys were left as they are"
# With fewer sets of tools one side could be left without any: conversations are split instead.
_MIN_TOOL_SETS = 20
_FEW_HELDOUT = 20
_SHOWN = 5


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import. `heldout_share`: of the conversations, or of the sets of tools."""

    domain: str = "general"
    scenario: str = "historical"
    every_turn: bool = False
    keep_pii: bool = False
    skip_bad: bool = False
    heldout_share: float = HELDOUT_SHARE


class Step(TypedDict):
    """A step of the import: how many records it removed, and how many it left."""

    step: str
    removed: int
    left: int


class PiiSummary(TypedDict):
    """Personal data that was replaced in the written prompts: replacements by kind, and the prompts with any."""

    scrubbed: bool
    found: dict[str, int]
    prompts: int
    remark: str


class WrittenFile(TypedDict):
    """A file of prompts."""

    sha256: str
    bytes: int
    prompts: int


class ImportSummary(TypedDict):
    """The contents of `import.json`. `counts`: prompts, and those with a reference, on each side."""

    schema: int
    options: dict[str, Any]
    files: list[LogFile]
    steps: list[Step]
    bad_rows: int
    bad_examples: list[str]
    """The first of them with the reason, scrubbed like the prompts."""
    pii: PiiSummary
    split_by: str
    tool_sets: int
    counts: dict[str, int]
    notes: list[str]
    written: dict[str, WrittenFile]


@dataclass
class _Steps:
    """The table of the steps so far."""

    left: int
    rows: list[Step] = field(default_factory=list)

    def add(self, step: str, removed: int) -> None:
        self.left -= removed
        self.rows.append({"step": step, "removed": removed, "left": self.left})


@dataclass(frozen=True)
class _Sides:
    """The records of both sides, and the number of different sets of tools."""

    train: list[Entry]
    heldout: list[Entry]
    tool_sets: int

    @property
    def few_tool_sets(self) -> bool:
        return 0 < self.tool_sets < _MIN_TOOL_SETS

    @property
    def by_tools(self) -> bool:
        return self.tool_sets >= _MIN_TOOL_SETS


def import_logs(
    sources: Sequence[LogSource], out: Path, options: ImportOptions, *, overwrite: bool = False
) -> ImportSummary:
    """Write `out`/train.jsonl, heldout.jsonl and import.json; return the contents of import.json.

    The same input gives the same bytes. Raises DraftbenchError for sources that cannot be read, for bad rows unless
    `options.skip_bad`, if no training prompt is left, and if `out` exists (with `overwrite`: if it is not an import).
    """
    if not 0 < options.heldout_share < 1:
        raise DraftbenchError(
            f"the held-out share is {options.heldout_share:g}",
            "both sides need prompts",
            "give --heldout-share between 0 and 1, for example 0.12",
        )
    refuse_existing(out, MARKER, overwrite=overwrite)
    log = read_logs(sources, every_turn=options.every_turn, skip_bad=options.skip_bad)
    steps = _Steps(log.rows)
    steps.add("not a conversation", len(log.bad))
    steps.left = len(log.queries)  # one row can have several queries
    steps.add(
        "each turn is a prompt, cut where its answer begins" if options.every_turn else "cut where an answer begins", 0
    )
    entries, replaced = _entries(log.queries, options)
    conversations = {entry["id"]: query.conversation for entry, query in zip(entries, log.queries, strict=True)}
    sides = _sides(_without_repeats(entries, steps), conversations, options.heldout_share, steps)
    if not sides.train:
        raise DraftbenchError(
            f"no training prompt is left of {log.rows} rows",
            "repeats and held-out conversations were removed",
            "import more of the log, or give a smaller --heldout-share",
        )
    pii = _pii_summary([replaced[entry["id"]] for entry in (*sides.train, *sides.heldout)], options)
    summary = _summary(options, log, steps, pii, sides)
    with output_folder(out, MARKER, overwrite=overwrite) as folder:
        summary["written"] = {
            side: _write_side(folder / f"{side}.jsonl", entries)
            for side, entries in (("train", sides.train), ("heldout", sides.heldout))
        }
        write_json(folder / MARKER, summary)
    return summary


def _entries(queries: Sequence[Query], options: ImportOptions) -> tuple[list[Entry], dict[str, Counter[str]]]:
    """The records of the queries, scrubbed conversation by conversation, and by id what was replaced in each."""
    scrubbers: dict[str, Scrubber] = {}
    entries: list[Entry] = []
    replaced: dict[str, Counter[str]] = {}
    for query, name in zip(queries, ids_of(queries, keep_pii=options.keep_pii), strict=True):
        scrubber = scrubbers.setdefault(query.conversation, Scrubber())
        before = Counter(scrubber.counts)
        entries.append(_entry(query, name, options, None if options.keep_pii else scrubber))
        replaced[name] = scrubber.counts - before
    return entries, replaced


def _pii_summary(replaced: Sequence[Counter[str]], options: ImportOptions) -> PiiSummary:
    """What was replaced in the prompts that are written."""
    return {
        "scrubbed": not options.keep_pii,
        "found": dict(sorted(sum(replaced, Counter()).items())),
        "prompts": sum(bool(counts) for counts in replaced),
        "remark": KEPT if options.keep_pii else REMARK,
    }


def _entry(query: Query, name: str, options: ImportOptions, scrubber: Scrubber | None) -> Entry:
    prompt = query.prompt

    def clean(value: Any) -> Any:
        return scrubber.value(value) if scrubber else value

    # Tools first: their texts are the same in all conversations, and so are their placeholders.
    tools = clean(list(prompt.tools))
    entry: dict[str, Any] = {
        "id": name,
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


def _without_repeats(entries: list[Entry], steps: _Steps) -> list[Entry]:
    repeats = {repeat.prompt_id: repeat.kind for repeat in repeats_in_context([as_prompt(entry) for entry in entries])}
    for kind in ("exact", "near"):
        steps.add(f"{kind} repeat of an earlier one", sum(other == kind for other in repeats.values()))
    return [entry for entry in entries if entry["id"] not in repeats]


def _sides(entries: Sequence[Entry], conversations: Mapping[str, str], share: float, steps: _Steps) -> _Sides:
    """Split the records, by tool sets where there are enough, and drop training records that show held-out ones."""
    whole = _Sides(list(entries), [], len({tool_names(entry) for entry in entries} - {()}))
    split = _split(entries, conversations, share, by_tools=not whole.few_tool_sets)
    train = _unseen(split["train"], split["heldout"], steps, by_tools=whole.by_tools)
    return _Sides(train, split["heldout"], whole.tool_sets)


def _split(
    entries: Sequence[Entry], conversations: Mapping[str, str], share: float, *, by_tools: bool
) -> dict[Side, list[Entry]]:
    """Assign each record to a side by the packs' rule. A conversation goes to the side of its first record."""
    side_of_conversation: dict[str, Side] = {}
    sides: dict[Side, list[Entry]] = {"train": [], "heldout": []}
    for entry in entries:
        conversation = conversations[entry["id"]]
        if conversation not in side_of_conversation:
            keyed = entry if by_tools else {key: value for key, value in entry.items() if key != "tools"}
            side_of_conversation[conversation] = side_of(cast(Entry, keyed), share)
        sides[side_of_conversation[conversation]].append(entry)
    return sides


def _unseen(train: Sequence[Entry], heldout: Sequence[Entry], steps: _Steps, *, by_tools: bool) -> list[Entry]:
    """Return the training records that show nothing of the held-out side."""
    steps.add("held out", len(heldout))
    if by_tools:  # a conversation that changed its tools can bring a set to both sides
        sets = {tool_names(entry) for entry in heldout} - {()}
        unseen = [entry for entry in train if tool_names(entry) not in sets]
        steps.add("has a held-out set of tools", len(train) - len(unseen))
        train = unseen
    _, repeats = remove_overlap([as_prompt(e) for e in train], [as_prompt(e) for e in heldout])
    for kind in ("exact", "near"):
        steps.add(f"{kind} repeat of a held-out one", sum(repeat.kind == kind for repeat in repeats))
    repeated = {repeat.prompt_id for repeat in repeats}
    return [entry for entry in train if entry["id"] not in repeated]


def _summary(options: ImportOptions, log: Log, steps: _Steps, pii: PiiSummary, sides: _Sides) -> ImportSummary:
    """The contents of import.json, still without the written files."""
    return {
        "schema": 1,
        "options": asdict(options),
        "files": log.files,
        "steps": steps.rows,
        "bad_rows": len(log.bad),
        "bad_examples": [_shown(row, options) for row in log.bad[:_SHOWN]],
        "pii": pii,
        "split_by": "conversation and set of tools" if sides.by_tools else "conversation",
        "tool_sets": sides.tool_sets,
        "counts": {
            "train": len(sides.train),
            "heldout": len(sides.heldout),
            "train_with_reference": sum("reference" in entry for entry in sides.train),
            "heldout_with_reference": sum("reference" in entry for entry in sides.heldout),
        },
        "notes": _notes(sides),
        "written": {},
    }


def _shown(row: BadRow, options: ImportOptions) -> str:
    """A row that was left out, with the reason, which may quote the log."""
    reason = row.reason if options.keep_pii else Scrubber().text(row.reason)
    return f"{Path(row.file).name}:{row.line}: {reason}"


def _notes(sides: _Sides) -> list[str]:
    notes = []
    if not sides.heldout:
        notes.append("no prompt is held out: import more of the log, or give a larger --heldout-share")
    elif (count := len(sides.heldout)) < _FEW_HELDOUT:
        notes.append(
            f"{count} held-out {'prompt is' if count == 1 else 'prompts are'} few to measure on: a larger "
            "--heldout-share or more of the log makes the intervals narrower"
        )
    if sides.few_tool_sets:
        notes.append(f"with fewer than {_MIN_TOOL_SETS} sets of tools, both sides have the same ones")
    return notes


def _write_side(path: Path, entries: Sequence[Entry]) -> WrittenFile:
    write_entries(path, entries)
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size, "prompts": len(entries)}
