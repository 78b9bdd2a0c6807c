"""Read the Berkeley Function-Calling Leaderboard: queries with tools, from users (live) and from experts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.chat.prompt import Tool
from engine.data.packs.entry import Entry, Scenario
from engine.packages import read_member

Row = dict[str, Any]
JsonSchema = dict[str, Any]

LICENCE = "Apache-2.0"
_FOLDER = "bfcl_eval/data"
_ORIGIN = "Berkeley Function-Calling Leaderboard v4"
# Java and JavaScript questions need arguments as values of those languages; multi_turn, memory, web_search and
# format_sensitivity need an environment that answers.
_ANSWERED: dict[str, Scenario] = {
    "live_simple": "historical",
    "live_multiple": "historical",
    "live_parallel": "historical",
    "live_parallel_multiple": "historical",
    "simple_python": "curated",
    "multiple": "curated",
    "parallel": "curated",
    "parallel_multiple": "curated",
}
_UNANSWERED: dict[str, Scenario] = {
    "live_irrelevance": "historical",
    "live_relevance": "historical",
    "irrelevance": "curated",
}
_TYPES = {
    "dict": "object",
    "float": "number",
    "int": "integer",
    "tuple": "array",
    "list": "array",
    "bool": "boolean",
    "str": "string",
    "any": "string",
}
_JSON_TYPES = {"object", "number", "integer", "array", "string", "boolean", "null"}


def read(archive: Path) -> Iterator[Entry]:
    """Every query of the single-turn sets. Those without a right call have no reference."""
    for name, scenario in {**_ANSWERED, **_UNANSWERED}.items():
        truths = _rows(archive, f"{_FOLDER}/possible_answer/BFCL_v4_{name}.json") if name in _ANSWERED else []
        answers = {row["id"]: row["ground_truth"] for row in truths}
        for row in _rows(archive, f"{_FOLDER}/BFCL_v4_{name}.json"):
            if len(row["question"]) == 1:
                yield _entry(row, name, scenario, answers.get(row["id"]))


def _rows(archive: Path, member: str) -> list[Row]:
    return [json.loads(line) for line in read_member(archive, member).decode("utf-8").splitlines() if line.strip()]


def _entry(row: Row, name: str, scenario: Scenario, truth: list[Any] | None) -> Entry:
    tools = [as_tool(function) for function in row["function"]]
    entry: Entry = {
        "id": f"bfcl-{row['id']}",
        "domain": "function_calling",
        "scenario": scenario,
        "messages": row["question"][0],
        "tools": tools,
        "source": f"{_ORIGIN}, {name}",
        "licence": LICENCE,
        "group": name.removeprefix("live_").removesuffix("_python"),
    }
    calls = as_calls(truth or [], tools)
    if calls:
        entry["reference"] = calls_text(calls)
    return entry


def as_tool(function: Row) -> Tool:
    """A function of the leaderboard in OpenAI's form, its parameters a valid JSON schema."""
    described = {"name": function["name"], "description": function.get("description", "")}
    parameters = as_schema(function.get("parameters") or {})
    parameters.setdefault("type", "object")
    parameters.setdefault("properties", {})
    return {"type": "function", "function": {**described, "parameters": parameters}}


def as_schema(schema: JsonSchema) -> JsonSchema:
    """Return `schema` with JSON's names of types at every depth, and without keys that JSON schema does not define."""
    clean: JsonSchema = {}
    for key, value in schema.items():
        if key == "type":
            clean[key] = _json_type(value)
        elif key == "properties" and isinstance(value, dict):
            clean[key] = {name: _property(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            clean[key] = as_schema(value)
        elif key == "required":
            clean[key] = [name for name in value if name in schema.get("properties", {})] if value else []
        elif key not in ("optional", "nullable"):
            clean[key] = value
    if clean.get("type") == "array" and "items" not in clean:
        clean["items"] = {}
    return clean


def _property(value: Any) -> JsonSchema:
    """The schema of an argument; some consist of a description or a type alone."""
    return as_schema(value) if isinstance(value, dict) else {"type": "string", "description": str(value)}


def _json_type(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_type(item) for item in value]
    name = str(value).lower().partition(",")[0].strip()  # "int, optional"
    name = _TYPES.get(name, name)
    return name if name in _JSON_TYPES else "string"


def as_calls(truth: list[dict[str, dict[str, list[Any]]]], tools: list[Tool]) -> list[dict[str, Any]]:
    """The calls of the ground truth: the first permitted value of each argument, without those that may be left out.

    No calls at all if one of them would lack an argument that its tool requires: in some rows the ground truth permits
    what the schema does not.
    """
    required = {tool["function"]["name"]: tool["function"]["parameters"].get("required", []) for tool in tools}
    calls = []
    for call in truth:
        ((name, permitted),) = call.items()
        needed = required.get(name, [])
        arguments = _arguments(permitted, needed)
        if not set(needed) <= arguments.keys():
            return []
        calls.append({"name": name, "arguments": arguments})
    return calls


def _arguments(permitted: dict[str, list[Any]], needed: list[str]) -> dict[str, Any]:
    """The arguments of a call. An empty string among the permitted values means that the argument may be left out."""
    stated = {key: [value for value in values if value != ""] for key, values in permitted.items()}
    kept = {key for key, values in permitted.items() if stated[key] and ("" not in values or key in needed)}
    return {key: first_permitted(stated[key]) for key in permitted if key in kept}


def first_permitted(values: list[Any]) -> Any:
    """The first permitted value. Objects in it list permitted values again, per field."""
    return _unfold(values[0]) if values else None


def _unfold(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: first_permitted(inner) if isinstance(inner, list) else inner
            for key, inner in value.items()
            if not (isinstance(inner, list) and "" in inner)
        }
    return [_unfold(item) if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def calls_text(calls: Iterable[dict[str, Any]]) -> str:
    """One call as a JSON object, several as a JSON array: the form that the prompt asks for."""
    several = list(calls)
    return json.dumps(several[0] if len(several) == 1 else several, ensure_ascii=False)
