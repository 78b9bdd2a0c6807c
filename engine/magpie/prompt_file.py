"""Turn raw queries into a prompt file with a description beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from engine.chat.prompt import Prompt
from engine.data.readers import SourceInfo
from engine.errors import DraftbenchError
from engine.fileio import json_object, read_json, write_atomic, write_json
from engine.magpie.filters import Filtered, WrittenQuery, apply_filters, first_sentence
from engine.magpie.plan import Plan, ToolSet
from engine.magpie.user_turn import Opening, template_marks
from engine.runs.provenance import versions


class RawLine(TypedDict):
    """A line of `raw.jsonl`. `tools`: index of the offered tool set, None if none are offered."""

    number: int
    seed: int
    tools: int | None
    finished: bool
    tokens: int
    text: str


class RemovedInfo(TypedDict):
    """A filter in a description: the number of queries it removed, what it checks, and the first of them."""

    count: int
    meaning: str
    example: str


class Description(TypedDict):
    """The contents of the JSON file beside the prompts."""

    name: str
    domain: str
    scenario: str
    raw: int
    kept: int
    kept_share: float
    removed: dict[str, RemovedInfo]
    sha256: str
    """Of the prompt file."""
    address: str
    target: str
    dtype: str
    template: str
    seed: int
    opening: str
    """The text before the queries."""
    system_place: str
    tool_sets: dict[str, int]
    """Different sets of tools in `tools_from`: `offered`, and `too_long` ones that were left out."""
    sources: dict[str, list[SourceInfo]]
    recipe: dict[str, Any]
    versions: dict[str, str]


class MagpieResult(Description):
    """A description with the paths of the prompts and of the raw queries."""

    file: str
    raw_file: str


def raw_lines(plan: Plan) -> list[RawLine]:
    """Read the raw queries from number 0 on, up to the first that is missing or damaged."""
    lines: list[RawLine] = []
    if plan.raw_file.exists():
        for raw in plan.raw_file.read_bytes().splitlines():
            line = json_object(raw)
            if line is None or line.get("number") != len(lines):
                break
            lines.append(cast(RawLine, line))
    return lines


def as_lines(values: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON objects as the bytes of a JSON-lines file."""
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)


def output_file(plan: Plan, out: Path | None, *, overwrite: bool) -> Path:
    """The path of the prompt file. Raises DraftbenchError if something else is there."""
    file = (out or plan.folder / "prompts.jsonl").expanduser().absolute()
    if file.suffix != ".jsonl":
        raise DraftbenchError(
            f"--out {out} does not end in .jsonl", "prompts are written as JSON lines", "for example --out mine.jsonl"
        )
    if not overwrite:
        _refuse_foreign(plan, file)
    return file


def write_prompts(plan: Plan, out: Path | None, *, overwrite: bool) -> MagpieResult:
    """Filter the raw queries, and write the prompts and their description.

    The description is written first: a kill between the two leaves a file that this recipe may replace.
    """
    lines = raw_lines(plan)[: plan.recipe.queries]
    opening = plan.opening(plan.steering(0)._replace(words=""))
    marks = template_marks(plan.tokenizer, opening)
    queries = [_query(plan, line) for line in lines]
    filtered = apply_filters(queries, plan.recipe.filters, marks, plan.heldout, plan.recipe.domain)
    if not filtered.kept:
        raise _nothing_kept(plan, filtered, len(lines))
    file = output_file(plan, out, overwrite=overwrite)
    data = as_lines([_record(plan, prompt) for prompt in filtered.kept])
    description = _description(plan, opening, filtered, len(lines), hashlib.sha256(data).hexdigest())
    write_json(file.with_suffix(".json"), description)
    write_atomic(file, data)
    return {"file": str(file), "raw_file": str(plan.raw_file), **description}


def _refuse_foreign(plan: Plan, file: Path) -> None:
    """Refuse to replace prompts or a description that this recipe did not write."""
    beside = file.with_suffix(".json")
    description = read_json(beside) if beside.exists() else None
    is_ours = isinstance(description, dict) and description.get("address") == plan.address
    existing = next((path for path in (file, beside) if path.exists()), None)
    if existing is not None and not is_ours:
        raise DraftbenchError(
            f"{existing} exists and was not written by this recipe",
            "runs that used it could not be repeated",
            "choose another --out, or pass --overwrite",
        )


def _query(plan: Plan, line: RawLine) -> WrittenQuery:
    offered = plan.tool_sets[line["tools"]] if line["tools"] is not None else ToolSet()
    text, cut = first_sentence(line["text"]) if plan.recipe.first_sentence else (line["text"], False)
    return WrittenQuery(line["number"], text, line["finished"] or cut, offered.tools, offered.group)


def _record(plan: Plan, prompt: Prompt) -> dict[str, Any]:
    spec = plan.recipe.target
    record: dict[str, Any] = {"id": prompt.id, "domain": plan.recipe.domain, "scenario": "synthetic"}
    if prompt.group:
        record["group"] = prompt.group
    record["messages"] = list(prompt.messages)
    if prompt.tools:
        record["tools"] = list(prompt.tools)
    record["source"] = f"{spec.model} with {spec.adapter}" if spec.adapter else spec.model
    record["licence"] = plan.recipe.licence
    return record


def _description(plan: Plan, opening: Opening, filtered: Filtered, raw: int, sha256: str) -> Description:
    return {
        "name": plan.recipe.name,
        "domain": plan.recipe.domain,
        "scenario": "synthetic",
        "raw": raw,
        "kept": len(filtered.kept),
        "kept_share": round(len(filtered.kept) / raw, 4),
        "removed": {
            name: {"count": removed.count, "meaning": removed.meaning, "example": removed.example}
            for name, removed in filtered.removed.items()
        },
        "sha256": sha256,
        "address": plan.address,
        "target": plan.spec["target"],
        "dtype": plan.spec["dtype"],
        "template": plan.spec["template"],
        "seed": plan.spec["seed"],
        "opening": plan.tokenizer.decode(opening.ids, skip_special_tokens=False),
        "system_place": opening.system_place,
        "tool_sets": {
            "offered": len(plan.tool_sets) if plan.recipe.tools_from else 0,
            "too_long": plan.long_tool_sets,
        },
        "sources": plan.sources,
        "recipe": plan.recipe.model_dump(mode="json"),
        "versions": versions(),
    }


def _nothing_kept(plan: Plan, filtered: Filtered, raw: int) -> DraftbenchError:
    why = ", ".join(f"{name} {removed.count}" for name, removed in filtered.removed.items() if removed.count)
    return DraftbenchError(
        f"none of {raw} raw queries passed the filters: {why}",
        "there is nothing to train on",
        f"read {plan.raw_file}; change system, temperature, max_new_tokens or filters",
    )
