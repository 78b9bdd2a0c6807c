"""Look for held-out queries in training sets: of sample_data, of the fetched packs, and in a user's own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, NotRequired, TypedDict

from engine.chat.prompt import Prompt
from engine.config.reading import parse_section
from engine.config.schema import PromptSource
from engine.data.overlap import remove_overlap
from engine.data.packs.entry import Side
from engine.data.packs.sets import PACK_SETS, sample_files, set_counts
from engine.data.readers import read_prompts
from engine.paths import PROJECT_ROOT
from engine.progress import Progress

_FILES: dict[Side, tuple[str, ...]] = {"train": ("train", "synthetic"), "heldout": ("heldout",)}


class Part(NamedTuple):
    """Prompts under the name that a recipe would give them."""

    name: str
    prompts: list[Prompt]
    bad_rows: int = 0


class PartRow(TypedDict):
    """A part in the report. `leaks`: training prompts that repeat a held-out query."""

    name: str
    prompts: int
    leaks: NotRequired[int]
    bad_rows: NotRequired[int]
    """Rows of a training file that are no prompts and were not compared; absent where there are none."""


class Leak(TypedDict):
    """A training prompt that repeats a held-out query."""

    training: str
    id: str
    text: str
    heldout: str
    heldout_id: str
    heldout_text: str
    kind: Literal["exact", "near"]
    jaccard: float


class LeakReport(TypedDict):
    """The result of `find_leaks`. `divided_tool_sets`: tool sets that the packs have on both sides."""

    ok: bool
    packs: list[str]
    heldout: list[PartRow]
    training: list[PartRow]
    leaks: list[Leak]
    divided_tool_sets: list[str]


def find_leaks(files: Sequence[str] = (), *, progress: Progress | None = None) -> LeakReport:
    """Find every training prompt that repeats a held-out query, across domains and scenarios.

    Held-out: sample_data's heldout files and the held-out sets of the fetched packs. Training: sample_data's train and
    synthetic files, the training sets of the packs, and `files`.
    """
    progress = progress or Progress(quiet=True)
    own = {name: _read(name, name) for name in files}  # first: what cannot be read is said at once
    heldout = [_read(*source) for source in _sources("heldout").items()]
    sources = _sources("train") | {name: name for name in files}
    progress.start("comparing with held-out queries", len(sources), "files")
    training: list[PartRow] = []
    leaks: list[Leak] = []
    tools: set[tuple[str, ...]] = set()
    for name, path in sources.items():
        part = own.get(name) or _read(name, path)
        part_leaks = list(_leaks_of(part, heldout))
        row: PartRow = {"name": part.name, "prompts": len(part.prompts), "leaks": len(part_leaks)}
        training.append({**row, "bad_rows": part.bad_rows} if part.bad_rows else row)
        leaks += part_leaks
        tools |= _tool_sets(part)
        progress.advance()
    progress.finish()
    kept_back = set().union(*(_tool_sets(part) for part in heldout))
    return {
        "ok": not leaks and not tools & kept_back,
        "packs": [pack["name"] for pack in set_counts()["packs"]],
        "heldout": [{"name": part.name, "prompts": len(part.prompts)} for part in heldout],
        "training": training,
        "leaks": leaks,
        "divided_tool_sets": sorted(", ".join(names) for names in tools & kept_back),
    }


def _sources(side: Side) -> dict[str, str]:
    """Name -> source: the shipped files of that side by their path in the project, and the packs' sets."""
    shipped = [path for file in _FILES[side] for path in sample_files(file)]
    of_packs = [row["set"] for row in set_counts()["sets"] if PACK_SETS[row["set"]].side == side]
    return {path.relative_to(PROJECT_ROOT).as_posix(): str(path) for path in shipped} | {
        name: name for name in of_packs
    }


def _read(name: str, path: str) -> Part:
    """Read a part without its bad rows: rows that are not trained on leak nothing."""
    read = read_prompts([parse_section(PromptSource, {"path": path})], skip_bad=True)
    return Part(name, read.prompts, len(read.bad))


def _leaks_of(part: Part, heldout: Sequence[Part]) -> Iterator[Leak]:
    """Compare the prompts by their positions, since ids may occur in several files."""
    mine = {str(number): prompt for number, prompt in enumerate(part.prompts)}
    theirs = {f"{other.name}\n{prompt.id}": (other.name, prompt) for other in heldout for prompt in other.prompts}
    _, repeats = remove_overlap(
        [_renamed(prompt, key) for key, prompt in mine.items()],
        [_renamed(prompt, key) for key, (_, prompt) in theirs.items()],
    )
    for repeat in repeats:
        prompt, (place, query) = mine[repeat.prompt_id], theirs[repeat.repeats_id]
        yield {
            "training": part.name,
            "id": prompt.id,
            "text": prompt.text,
            "heldout": place,
            "heldout_id": query.id,
            "heldout_text": query.text,
            "kind": repeat.kind,
            "jaccard": repeat.jaccard,
        }


def _renamed(prompt: Prompt, key: str) -> Prompt:
    return Prompt(key, prompt.messages, prompt.tools, prompt.group)


def _tool_sets(part: Part) -> set[tuple[str, ...]]:
    """The tool sets of a set of the packs. Those of sample_data are few, and on both sides on purpose."""
    if part.name not in PACK_SETS:
        return set()
    return {tuple(sorted(tool["function"]["name"] for tool in p.tools)) for p in part.prompts if p.tools}
