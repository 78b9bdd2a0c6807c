"""The prompt file that comes of the raw queries, and the description beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.chat.prompt import Prompt
from engine.errors import DraftbenchError
from engine.fileio import json_object, read_json, write_atomic, write_json
from engine.magpie.filters import Removed, Sieved, WrittenQuery, first_sentence, sieve
from engine.magpie.plan import Plan, ToolSet
from engine.magpie.user_turn import Opening, template_marks
from engine.runs.provenance import versions


def raw_lines(plan: Plan) -> list[dict[str, Any]]:
    """The raw queries from number 0 on, up to the first that is missing or damaged."""
    lines: list[dict[str, Any]] = []
    if plan.raw_file.exists():
        for raw in plan.raw_file.read_bytes().splitlines():
            line = json_object(raw)
            if line is None or line.get("number") != len(lines):
                break
            lines.append(line)
    return lines


def as_lines(values: Sequence[dict[str, Any]]) -> bytes:
    """JSON objects as the bytes of a JSON-lines file."""
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)


def output_file(plan: Plan, out: Path | None, *, overwrite: bool) -> Path:
    """Where the prompts go; refused if something else is there."""
    file = (out or plan.folder / "prompts.jsonl").expanduser().absolute()
    if file.suffix != ".jsonl":
        raise DraftbenchError(
            f"--out {out} does not end in .jsonl", "prompts are written as JSON lines", "for example --out mine.jsonl"
        )
    if not overwrite:
        _refuse_foreign(plan, file)
    return file


def write_prompts(plan: Plan, out: Path | None, *, overwrite: bool) -> dict[str, Any]:
    """Sieve the raw queries, write the prompts and their description; returns the description with both paths.

    The description goes first: a kill between the two leaves a file that this recipe may replace.
    """
    lines = raw_lines(plan)[: plan.recipe.queries]
    opening = plan.opening(plan.steering(0)._replace(words=""))
    marks = template_marks(plan.tokenizer, opening)
    sieved = sieve([_query(plan, line) for line in lines], plan.recipe.filters, marks, plan.heldout, plan.recipe.domain)
    if not sieved.kept:
        raise _nothing_kept(plan, sieved, len(lines))
    file = output_file(plan, out, overwrite=overwrite)
    data = as_lines([_record(plan, prompt) for prompt in sieved.kept])
    told = _description(plan, opening, sieved, len(lines), hashlib.sha256(data).hexdigest())
    write_json(file.with_suffix(".json"), told)
    write_atomic(file, data)
    return {"file": str(file), "raw_file": str(plan.raw_file), **told}


def _refuse_foreign(plan: Plan, file: Path) -> None:
    """Refuse to replace prompts or a description that another recipe, or somebody, has made."""
    beside = file.with_suffix(".json")
    found = read_json(beside) if beside.exists() else None
    ours = isinstance(found, dict) and found.get("address") == plan.address
    there = next((path for path in (file, beside) if path.exists()), None)
    if there is not None and not ours:
        raise DraftbenchError(
            f"{there} is there already and was not made by this recipe",
            "what was made from it could not be made again",
            "choose another --out, or pass --overwrite",
        )


def _query(plan: Plan, line: dict[str, Any]) -> WrittenQuery:
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


def _description(plan: Plan, opening: Opening, sieved: Sieved, raw: int, sha256: str) -> dict[str, Any]:
    return {
        "name": plan.recipe.name,
        "domain": plan.recipe.domain,
        "scenario": "synthetic",
        "raw": raw,
        "kept": len(sieved.kept),
        "kept_share": round(len(sieved.kept) / raw, 4),
        "removed": {name: _told(removed) for name, removed in sieved.removed.items()},
        "sha256": sha256,
        "address": plan.address,
        **{key: plan.spec[key] for key in ("target", "dtype", "template", "seed")},
        "opening": plan.tokenizer.decode(opening.ids, skip_special_tokens=False),
        "system_place": opening.system_place,
        "sources": plan.sources,
        "recipe": plan.recipe.model_dump(mode="json"),
        "versions": versions(),
    }


def _told(removed: Removed) -> dict[str, Any]:
    return {"count": removed.count, "meaning": removed.meaning, "example": removed.example}


def _nothing_kept(plan: Plan, sieved: Sieved, raw: int) -> DraftbenchError:
    why = ", ".join(f"{name} {removed.count}" for name, removed in sieved.removed.items() if removed.count)
    return DraftbenchError(
        f"none of {raw} raw queries passed the filters: {why}",
        "there is nothing to train on",
        f"read {plan.raw_file}; change system, temperature, max_new_tokens or filters",
    )
