"""What a row of each hub preset's dataset says: functions from a row to messages, tools, reference and group."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from engine.data.packs.bfcl import as_schema, calls_text
from engine.data.packs.entry import user


class UnfitRowError(Exception):
    """A row that no record can be made of; it is counted."""


Told = dict[str, Any]  # messages, and what there is of tools, reference and group


def xlam(row: Mapping[str, Any]) -> Told:
    """APIGen: `query`, and `tools` and `answers` as JSON text."""
    tools, answers = _json_list(row["tools"]), _json_list(row["answers"])
    if not all(isinstance(call, dict) and "name" in call for call in answers):
        raise UnfitRowError("an answer is no call")
    calls = [{"name": call["name"], "arguments": call.get("arguments", {})} for call in answers]
    told = {"messages": user(_words(row["query"])), "tools": [xlam_tool(tool) for tool in tools]}
    return told | ({"reference": calls_text(calls)} if calls else {})


def camel(row: Mapping[str, Any]) -> Told:
    """CAMEL: a problem and its solution, under a topic."""
    topic = row.get("topic;") or row.get("topic") or ""  # the column is really called so
    return {"messages": user(_words(row["message_1"])), "reference": _words(row["message_2"]), "group": str(topic)}


def alpaca(row: Mapping[str, Any]) -> Told:
    """Alpaca: an instruction, perhaps an input to it, and the output."""
    asked = "\n".join(part for part in (_words(row["instruction"]), _words(row.get("input") or "")) if part)
    return {"messages": user(asked), "reference": _words(row["output"])}


def dolly(row: Mapping[str, Any]) -> Told:
    """Dolly: an instruction, perhaps a text that it is about, and the response."""
    asked = "\n\n".join(part for part in (_words(row["instruction"]), _words(row.get("context") or "")) if part)
    return {"messages": user(asked), "reference": _words(row["response"]), "group": str(row.get("category") or "")}


def xlam_tool(tool: Any) -> dict[str, Any]:
    """A tool of APIGen in OpenAI's form: its parameters are named with Python's types, optional ones with a default."""
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise UnfitRowError("a tool has no name")
    given = tool.get("parameters") or {}
    if not isinstance(given, dict):
        raise UnfitRowError("the parameters of a tool are no object")
    if given.get("type") == "object" and isinstance(given.get("properties"), dict):
        schema = as_schema(given)
    else:
        told = {
            name: value if isinstance(value, dict) else {"description": str(value)} for name, value in given.items()
        }
        schema = {"type": "object", "properties": {name: _property(value) for name, value in told.items()}}
        schema["required"] = [name for name, value in told.items() if not _is_optional(value)]
    described = {"name": tool["name"], "description": str(tool.get("description", ""))}
    return {"type": "function", "function": {**described, "parameters": schema}}


def _property(value: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value[key] for key in ("description", "default", "enum") if value.get(key) not in (None, "")}
    return {**_json_schema(str(value.get("type", ""))), **kept}


def _is_optional(value: Mapping[str, Any]) -> bool:
    return "optional" in str(value.get("type", "")).lower() or value.get("default") not in (None, "")


_PYTHON_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}


def _json_schema(told: str) -> dict[str, Any]:
    """'List[int], optional' as {"type": "array", "items": {"type": "integer"}}; what is not known is text."""
    plain = re.sub(r",\s*(optional|default.*)$", "", told.strip(), flags=re.IGNORECASE)
    plain = re.sub(r"^Optional\[(.*)\]$", r"\1", plain)
    outer, _, inner = plain.partition("[")
    kind = _PYTHON_TYPES.get(outer.strip().lower(), "string")
    if kind != "array":
        return {"type": kind}
    items = inner.removesuffix("]").partition(",")[0] if outer.lower() == "tuple" else inner.removesuffix("]")
    return {"type": "array", "items": _json_schema(items) if items else {}}


def _json_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnfitRowError("text that is no JSON") from None
    if not isinstance(value, list):
        raise UnfitRowError("no list")
    return value


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitRowError("no text")
    return value.strip()
