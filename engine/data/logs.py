"""One row of a user's own chat log as the queries in it: where the answer began, and what it was.

Logs come in several forms (OpenAI requests, ShareGPT turns, plain text); what they share is a
list of messages, of which the last ones are an answer. The answer is cut off and kept as the
query's reference. What cannot be read as a conversation is a BadRecordError, fit to be shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from engine.config import PromptSource
from engine.data.packs.bfcl import calls_text
from engine.data.prompts import Prompt
from engine.data.records import BadRecordError, decoded, to_prompt

_ROLES = {
    "human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system", "function": "tool",
    "observation": "tool",
}  # fmt: skip
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")


class LogSource(PromptSource):
    """One file of a log and where its columns lie. Dots in a name go into objects: `request.messages`."""

    id_column: str = Field("id", description="column of the row's own name")
    conversation_column: str | None = Field(None, description="column that rows of one conversation share")
    time_column: str | None = Field(None, description="column of the time: prompts are kept in its order")
    reference_column: str | None = Field(None, description="column of the answer, if it is not the last message")

    def columns(self) -> tuple[str, ...]:
        """As for prompts, and those that only a log has."""
        more = (self.id_column, self.conversation_column, self.time_column, self.reference_column)
        return (*super().columns(), *(name for name in more if name))


@dataclass(frozen=True)
class Query:
    """What a user asked in a log, and the answer that followed. `time` is in seconds, 0 where none is told.

    `fallback_id` says where it stood; without the log's own name (`named`) it is the prompt's id too.
    `conversation` is unlike all others, whether the log or the place named it.
    """

    prompt: Prompt
    reference: str
    conversation: str
    time: float
    fallback_id: str
    named: bool


def queries_of(record: Mapping[str, Any], source: LogSource, fallback_id: str, *, every_turn: bool) -> list[Query]:
    """The last query of the conversation in `record`, or one for each turn of the user. Raises BadRecordError."""
    messages, tools = _messages(record, source), _tools(record, source)
    given = _given_reference(record, source)
    own_name = _text(at(record, source.id_column))
    name = own_name or fallback_id
    shared = _text(at(record, source.conversation_column))
    conversation = f"named {shared}" if shared else f"row {fallback_id}"
    ends = _ends_of_turns(messages) if every_turn else []
    last = _end_of_last(messages)
    made = []
    for number, end in enumerate([*ends, last] if last not in ends else ends, 1):
        turn = f"-turn{number}" if every_turn else ""
        prompt = to_prompt(
            {"id": name + turn, "group": at(record, "group"), "messages": messages[:end], "tools": tools},
            PromptSource(path=source.path),
            fallback_id + turn,
        )
        answer = reference_of(messages[end]) if end < len(messages) else ""
        reference = given if given and end == last else answer
        made.append(
            Query(prompt, reference, conversation, _time(record, source), fallback_id + turn, named=bool(own_name))
        )
    return made


def at(record: Mapping[str, Any], path: str | None) -> Any:
    """The value under a column, or under a dotted path into objects and lists; None where there is none."""
    if path is None or path in record:
        return record.get(path) if path else None
    value: Any = record
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def as_message(value: Any) -> Any:
    """A message with role and content, from the forms in which logs have it; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    message = {"role": value.get("role", value.get("from")), "content": value.get("content", value.get("value"))}
    message |= {key: value[key] for key in _MESSAGE_KEYS[2:] if value.get(key)}
    message["role"] = _ROLES.get(str(message["role"]), message["role"])
    call = value.get("function_call")
    if isinstance(call, Mapping) and "tool_calls" not in message:
        message["tool_calls"] = [{"type": "function", "function": dict(call)}]
    message["content"] = _joined(message["content"])
    return {key: inner for key, inner in message.items() if inner is not None}


def reference_of(message: Mapping[str, Any]) -> str:
    """What an assistant's message says: its calls in the form a prompt asks for, else its text."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls and all(isinstance(c, Mapping) and c.get("function") for c in calls):
        return calls_text(_call(call["function"]) for call in calls)
    content = message.get("content", "")
    return content.strip() if isinstance(content, str) else ""


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise BadRecordError(f"the arguments of a call of {function.get('name')} are not valid JSON") from None
    return {"name": function.get("name"), "arguments": arguments}


def _messages(record: Mapping[str, Any], source: LogSource) -> list[Any]:
    value = decoded(at(record, source.messages_column), source.messages_column)
    if value is None:
        text = at(record, source.prompt_column)
        if text is None:
            columns = f"{source.messages_column!r} nor {source.prompt_column!r}"
            raise BadRecordError(f"has neither {columns}; it has: {', '.join(map(str, record)) or 'nothing'}")
        value = [{"role": "user", "content": text}]
    if not isinstance(value, list) or not value:
        raise BadRecordError(f"{source.messages_column!r} must be a list of messages")
    return [as_message(message) for message in value]


def _tools(record: Mapping[str, Any], source: LogSource) -> Any:
    """The tools' schemas; OpenAI's older form has them without the shell that says `function`."""
    value = decoded(at(record, source.tools_column), source.tools_column)
    if not isinstance(value, list):
        return value
    bare = [isinstance(tool, Mapping) and "name" in tool and "function" not in tool for tool in value]
    return [{"type": "function", "function": t} if is_bare else t for t, is_bare in zip(value, bare, strict=True)]


def _given_reference(record: Mapping[str, Any], source: LogSource) -> str:
    value = at(record, source.reference_column)
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, Mapping):
        return reference_of(as_message(value))
    raise BadRecordError(f"{source.reference_column!r} must be text or a message")


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def _end_of_last(messages: list[Any]) -> int:
    """Where the last answer begins."""
    end = len(messages)
    while end and _role(messages[end - 1]) == "assistant":
        end -= 1
    if not end:
        raise BadRecordError("nobody asks anything: all messages are the assistant's")
    return end


def _ends_of_turns(messages: list[Any]) -> list[int]:
    """Where an answer to the user begins, for each turn of the user that got one."""
    roles = [*map(_role, messages), None]
    return [i + 1 for i, role in enumerate(roles[:-1]) if role == "user" and roles[i + 1] == "assistant"]


def _joined(content: Any) -> Any:
    """Text that is given in parts, as one; parts that are no text cannot be written into a prompt."""
    if not isinstance(content, list):
        return content
    odd = [part for part in content if not isinstance(part, Mapping) or not isinstance(part.get("text"), str)]
    if odd:
        kind = odd[0].get("type", "unknown") if isinstance(odd[0], Mapping) else type(odd[0]).__name__
        raise BadRecordError(f"a message holds a part of type {kind}; only text can be used")
    return "\n".join(part["text"] for part in content)


def _text(value: Any) -> str:
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    raise BadRecordError("names of rows and conversations must be text or numbers")


def _time(record: Mapping[str, Any], source: LogSource) -> float:
    """Seconds since 1970; a date without a time zone is taken as UTC."""
    value = at(record, source.time_column)
    if value is None or value == "":
        return 0.0
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise BadRecordError(
                f"{source.time_column!r} is neither a number nor a date such as 2026-01-31 12:00"
            ) from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRecordError(f"{source.time_column!r} is neither a number nor a date")
    return float(value)
