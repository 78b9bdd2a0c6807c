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

from engine.data.overlap import remove_overlap
from engine.data.packs.build import write_entries
from engine.data.packs.entry import Entry, Side, as_prompt
from engine.data.packs.filters import find_repeats, tool_names
from engine.data.packs.split import HELDOUT_SHARE, side_of
from engine.data.whole_folder import refuse_existing, whole_folder
from engine.errors import DraftbenchError
from engine.fileio import sha256_file, write_json
from engine.logs.files import Log, ids_of, read_logs
from engine.logs.pii import Scrubber
from engine.logs.queries import LogSource, Query

MARKER = "import.json"
LICENCE = "private"
REMARK = (
    "what is replaced are e-mail addresses, numbers and keys of a recognisable form; names and postal addresses stay: "
    "look at a sample before you share it"
)
KEPT = "personal data and keys were left as they are"
# With fewer sets of tools than this one side could be left without any: conversations are split instead.
_FEWEST_TOOL_SETS = 20
_FEW_HELDOUT = 20


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


@dataclass(frozen=True)
class _Sides:
    """The records of both sides, and by what they were told apart."""

    train: list[Entry]
    heldout: list[Entry]
    tool_sets: int

    @property
    def few_tool_sets(self) -> bool:
        return 0 < self.tool_sets < _FEWEST_TOOL_SETS

    @property
    def by_tools(self) -> bool:
        return self.tool_sets >= _FEWEST_TOOL_SETS


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
    log = read_logs(sources, every_turn=options.every_turn, skip_bad=options.skip_bad)
    steps = _begun(log)
    entries, found = _entries(log.queries, options)
    conversations = {entry["id"]: query.conversation for entry, query in zip(entries, log.queries, strict=True)}
    fresh = _without_repeats(entries, steps)
    sides = _sides(fresh, conversations, options.heldout_share, steps)
    _refuse_nothing(sides.train, log.rows)
    told = _told(options, log, steps, found, sides)
    with whole_folder(out, MARKER, overwrite=overwrite) as folder:
        told["written"] = {
            side: _written(folder / f"{side}.jsonl", entries)
            for side, entries in (("train", sides.train), ("heldout", sides.heldout))
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


def _begun(log: Log) -> _Steps:
    """The table with the reading's own rows: one row of a log can hold several queries."""
    steps = _Steps(log.rows)
    steps.took("is no conversation", len(log.bad))
    steps.left = len(log.queries)
    steps.took("cut where an answer begins", 0)
    return steps


def _entries(queries: Sequence[Query], options: ImportOptions) -> tuple[list[Entry], dict[str, Any]]:
    """Records of the queries, scrubbed conversation by conversation, and what was found."""
    scrubbers: dict[str, Scrubber] = {}
    entries, touched = [], 0
    for query, name in zip(queries, ids_of(queries, keep_pii=options.keep_pii), strict=True):
        scrubber = scrubbers.setdefault(query.conversation, Scrubber())
        before = scrubber.counts.total()
        entries.append(_entry(query, name, options, None if options.keep_pii else scrubber))
        touched += scrubber.counts.total() > before
    found: Counter[str] = Counter()
    for scrubber in scrubbers.values():
        found.update(scrubber.counts)
    return entries, {"found": dict(sorted(found.items())), "prompts": touched}


def _entry(query: Query, name: str, options: ImportOptions, scrubber: Scrubber | None) -> Entry:
    prompt = query.prompt

    def clean(value: Any) -> Any:
        return scrubber.value(value) if scrubber else value

    # Tools first: what stands in them is the same in all conversations, and so are its placeholders.
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
    repeats = find_repeats(entries)
    for kind in ("exact", "near"):
        steps.took(f"{kind} repeat of an earlier one", sum(other == kind for other in repeats.values()))
    return [entry for entry in entries if entry["id"] not in repeats]


def _sides(entries: Sequence[Entry], conversations: Mapping[str, str], share: float, steps: _Steps) -> _Sides:
    """The held-out records and those that show nothing of them, split by tool sets where there are enough."""
    whole = _Sides(list(entries), [], len({tool_names(entry) for entry in entries} - {()}))
    split = _split(entries, conversations, share, by_tools=not whole.few_tool_sets)
    train = _unseen(split["train"], split["heldout"], steps, by_tools=whole.by_tools)
    return _Sides(train, split["heldout"], whole.tool_sets)


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


def _told(options: ImportOptions, log: Log, steps: _Steps, found: dict[str, Any], sides: _Sides) -> dict[str, Any]:
    """What import.json says, but for the files' hashes."""
    return {
        "schema": 1,
        "options": asdict(options),
        "files": log.files,
        "steps": steps.rows,
        "bad_rows": len(log.bad),
        "pii": {"scrubbed": not options.keep_pii, **found, "remark": KEPT if options.keep_pii else REMARK},
        "split_by": "conversation and set of tools" if sides.by_tools else "conversation",
        "tool_sets": sides.tool_sets,
        "counts": {
            "train": len(sides.train),
            "heldout": len(sides.heldout),
            "train_with_reference": sum("reference" in entry for entry in sides.train),
            "heldout_with_reference": sum("reference" in entry for entry in sides.heldout),
        },
        "notes": _notes(sides),
    }


def _notes(sides: _Sides) -> list[str]:
    notes = []
    if len(sides.heldout) < _FEW_HELDOUT:
        notes.append(
            f"{len(sides.heldout)} held-out prompts are few to measure on: a larger --heldout-share, or more of the log, "
            "narrows the intervals"
        )
    if sides.few_tool_sets:
        notes.append(f"with fewer than {_FEWEST_TOOL_SETS} sets of tools both sides have the same ones")
    return notes


def _written(path: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    write_entries(path, entries)
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size, "prompts": len(entries)}
