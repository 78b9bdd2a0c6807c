"""Is an answer a call of one of the functions it was offered? Pure functions.

The judgement is strict, as a program that reads the answer would be: the whole answer is one
JSON object `{"name": ..., "arguments": {...}}` or an array of such objects. A fence of
Markdown around it or a sentence after it makes it invalid, and the reason says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.chat.prompt import Tool


@dataclass(frozen=True)
class Judgement:
    """The judgement of an answer as function calls. `reason` says why it is not valid, and is empty if it is.

    `misfit` is "" if, beyond that, all arguments are known and of the schema's types.
    `names_match` and `arguments_match` compare with the reference's calls, in any order.
    """

    reason: str
    misfit: str = ""
    names_match: bool = False
    arguments_match: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return self.reason == ""


class _NotCalls(Exception):
    """An answer that cannot be read as calls; the message is the reason."""


def judge(answer: str, tools: Sequence[Tool], reference: str) -> Judgement:
    """Judge an answer against the tools it was offered and the reference's calls.

    Valid: it parses, each name is among the tools, and no required argument is missing.
    """
    try:
        calls = parse_calls(answer)
    except _NotCalls as why:
        return Judgement(str(why))
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    reason = next((problem for call in calls if (problem := _problem(call, schemas))), "")
    misfit = reason or next((problem for call in calls if (problem := _misfit(call, schemas))), "")
    expected = parse_calls(reference)
    return Judgement(
        reason,
        misfit,
        _ordered(calls, _name_only) == _ordered(expected, _name_only),
        _ordered(calls, _canonical) == _ordered(expected, _canonical),
        calls,
    )


def is_calls(text: str) -> bool:
    """Return whether a reference consists of calls; a plain sentence says that no function fits."""
    try:
        parse_calls(text)
    except _NotCalls:
        return False
    return True


def parse_calls(text: str) -> list[dict[str, Any]]:
    """The calls in a text that holds nothing else. Raises an error whose message is the reason."""
    stripped = text.strip()
    try:
        value = json.loads(stripped)
    except RecursionError:
        raise _NotCalls("not JSON") from None
    except json.JSONDecodeError as error:
        raise _NotCalls(_why_no_json(stripped, error)) from None
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise _NotCalls("no call in the array")
    if not all(_is_call(call) for call in calls):
        raise _NotCalls("JSON of another form")
    return calls


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict)


def _why_no_json(text: str, error: json.JSONDecodeError) -> str:
    if not text:
        return "empty answer"
    if text.startswith("```"):
        return "Markdown fence"
    if text[0] not in "{[":
        return "prose with JSON in it" if '{"' in text or "{'" in text else "prose"
    if error.msg == "Extra data":
        return "text after the JSON"
    return "JSON breaks off" if error.pos >= len(text) - 1 or "Unterminated" in error.msg else "not JSON"


def _problem(call: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """The reason why a call cannot be made; "" if it can."""
    schema = schemas.get(call["name"])
    if schema is None:
        return "unknown function"
    missing = any(name not in call["arguments"] for name in schema.get("required") or ())
    return "required argument missing" if missing else ""


def _misfit(call: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """How a call that can be made does not fit its schema; "" if it does."""
    arguments, properties = call["arguments"], schemas[call["name"]].get("properties") or {}
    if any(name not in properties for name in arguments):
        return "unknown argument"
    if not all(_fits(value, properties[name]) for name, value in arguments.items()):
        return "argument of the wrong type"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _fits(value: Any, schema: Any) -> bool:
    """Return whether a value is of the type that the schema names; unknown types and no type take anything."""
    named = schema.get("type") if isinstance(schema, Mapping) else None
    types = named if isinstance(named, list) else [named]
    return any(not isinstance(kind, str) or kind not in _TYPES or _TYPES[kind](value) for kind in types)


def _name_only(call: Mapping[str, Any]) -> str:
    return str(call["name"])


def _canonical(call: Mapping[str, Any]) -> str:
    """Name and arguments for comparison: the order of keys, letters' case and 5 against 5.0 do not count."""
    return json.dumps([call["name"], _normal(call["arguments"])], sort_keys=True, ensure_ascii=False)


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if _is_number(value):
        return float(value)
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    return [_normal(inner) for inner in value] if isinstance(value, list) else value


def _ordered(calls: Sequence[Mapping[str, Any]], form: Callable[[Mapping[str, Any]], str]) -> list[str]:
    return sorted(form(call) for call in calls)
