"""Functions that read a row of each hub preset's dataset into messages, tools, reference and group."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from engine.chat.prompt import Message, Tool
from engine.data.packs.bfcl import JsonSchema, as_schema, calls_text
from engine.data.packs.entry import user


class UnfitRowError(Exception):
    """The row cannot become a record; it is counted."""


class RowContent(TypedDict):
    """What a row has for an Entry."""

    messages: list[Message]
    tools: NotRequired[list[Tool]]
    reference: NotRequired[str]
    group: NotRequired[str]


def xlam(row: Mapping[str, Any]) -> RowContent:
    """APIGen: `query`, and `tools` and `answers` as JSON text."""
    tools, answers = _json_list(row["tools"]), _json_list(row["answers"])
    if not all(isinstance(call, dict) and "name" in call for call in answers):
        raise UnfitRowError("an answer is not a call")
    calls = [{"name": call["name"], "arguments": call.get("arguments", {})} for call in answers]
    content: RowContent = {"messages": user(_words(row["query"])), "tools": [xlam_tool(tool) for tool in tools]}
    if calls:
        content["reference"] = calls_text(calls)
    return content


def camel(row: Mapping[str, Any]) -> RowContent:
    """CAMEL: a problem and its solution, under a topic."""
    topic = row.get("topic;") or row.get("topic") or ""  # the column really has this name
    return {"messages": user(_words(row["message_1"])), "reference": _words(row["message_2"]), "group": str(topic)}


def alpaca(row: Mapping[str, Any]) -> RowContent:
    """Alpaca: an instruction, sometimes with an input, and the output."""
    question = "\n".join(part for part in (_words(row["instruction"]), _words(row.get("input") or "")) if part)
    return {"messages": user(question), "reference": _words(row["output"])}


def dolly(row: Mapping[str, Any]) -> RowContent:
    """Dolly: an instruction, sometimes with a text that it is about, and the response."""
    question = "\n\n".join(part for part in (_words(row["instruction"]), _words(row.get("context") or "")) if part)
    return {"messages": user(question), "reference": _words(row["response"]), "group": str(row.get("category") or "")}


def xlam_tool(tool: Any) -> Tool:
    """A tool of APIGen, whose parameters have Python's types and optional ones a default, in OpenAI's form."""
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise UnfitRowError("a tool has no name")
    given = tool.get("parameters") or {}
    if not isinstance(given, dict):
        raise UnfitRowError("the parameters of a tool are not an object")
    if given.get("type") == "object" and isinstance(given.get("properties"), dict):
        schema = as_schema(given)
    else:
        parameters = {
            name: value if isinstance(value, dict) else {"description": str(value)} for name, value in given.items()
        }
        schema = {"type": "object", "properties": {name: _property(value) for name, value in parameters.items()}}
        schema["required"] = [name for name, value in parameters.items() if not _is_optional(value)]
    described = {"name": tool["name"], "description": str(tool.get("description", ""))}
    return {"type": "function", "function": {**described, "parameters": schema}}


def _property(value: Mapping[str, Any]) -> JsonSchema:
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


def _json_schema(python_type: str) -> JsonSchema:
    """'List[int], optional' as {"type": "array", "items": {"type": "integer"}}; an unknown type is text."""
    plain = re.sub(r",\s*(optional|default.*)$", "", python_type.strip(), flags=re.IGNORECASE)
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
            raise UnfitRowError("text that is not JSON") from None
    if not isinstance(value, list):
        raise UnfitRowError("not a list")
    return value


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitRowError("not text")
    return value.strip()
