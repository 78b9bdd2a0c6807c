"""One record of a prompt file made into a Prompt, or into the reason why it is not one.

Pure functions; the reasons are shown to the user beside the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.config import PromptSource
from engine.data.prompts import Message, Prompt, Tool

ROLES = ("system", "user", "assistant", "tool")


class BadRecordError(Exception):
    """A record that is no prompt; the message is the reason, fit to be shown."""


def to_prompt(record: Mapping[str, Any], source: PromptSource, fallback_id: str) -> Prompt:
    """The prompt in `record`, whose columns `source` names.

    `messages` wins over `prompt`, which becomes one user message. Raises BadRecordError.
    """
    prompt = Prompt(
        id=_identity(record.get("id"), fallback_id),
        messages=_messages(record, source),
        tools=_tools(record, source),
        group=str(record.get("group") or ""),
    )
    _refuse_unwritable(prompt)
    return prompt


def without_nulls(value: Any) -> Any:
    """`value` without the keys that Arrow filled with nulls, at every depth.

    Arrow gives every struct of a column the same keys; a key that a record never had comes
    back as None. A null that the author wrote looks the same and goes as well. A dict whose
    keys were all filled stays, empty: `{}` is how a tool without parameters was written.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def _identity(value: Any, fallback: str) -> str:
    if value is None or value == "":
        return fallback
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRecordError(f"id must be text or a number, not {_kind(value)}")
    return str(value)


def _messages(record: Mapping[str, Any], source: PromptSource) -> tuple[Message, ...]:
    value = decoded(record.get(source.messages_column), source.messages_column)
    if value is not None:
        return _checked_messages(value, source.messages_column)
    text = record.get(source.prompt_column)
    if text is None:
        raise BadRecordError(
            f"has neither {source.messages_column!r} nor {source.prompt_column!r}; "
            f"it has: {', '.join(map(str, record)) or 'nothing'}"
        )
    if not isinstance(text, str):
        raise BadRecordError(f"{source.prompt_column!r} must be text, not {_kind(text)}")
    if not text.strip():
        raise BadRecordError(f"{source.prompt_column!r} is empty")
    return ({"role": "user", "content": text},)


def _checked_messages(value: Any, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise BadRecordError(f"{column!r} must be a list of messages, not {_kind(value)}")
    if not value:
        raise BadRecordError(f"{column!r} is an empty list")
    messages = tuple(_checked_message(number, message) for number, message in enumerate(value, 1))
    last = messages[-1]["role"]
    if last not in ("user", "tool"):
        raise BadRecordError(f"the last message is from {last!r}; a prompt ends with 'user' or 'tool'")
    return messages


def _checked_message(number: int, value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise BadRecordError(f"message {number} must be an object with role and content, not {_kind(value)}")
    message = {key: inner for key, inner in value.items() if inner is not None}
    if message.get("role") not in ROLES:
        raise BadRecordError(f"message {number} has role {message.get('role')!r}; known: {', '.join(ROLES)}")
    content = message.get("content", "")
    if not isinstance(content, str):
        raise BadRecordError(f"content of message {number} must be text, not {_kind(content)}")
    calls_instead = message["role"] == "assistant" and _are_objects(message.get("tool_calls"))
    if not content.strip() and not calls_instead:
        raise BadRecordError(f"content of message {number} ({message['role']}) is empty")
    return message


def _tools(record: Mapping[str, Any], source: PromptSource) -> tuple[Tool, ...]:
    value = decoded(record.get(source.tools_column), source.tools_column)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRecordError(f"{source.tools_column!r} must be a list of schemas, not {_kind(value)}")
    return tuple(_checked_tool(number, tool) for number, tool in enumerate(value, 1))


def _checked_tool(number: int, value: Any) -> Tool:
    shape = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
    if not isinstance(value, Mapping) or value.get("type") != "function":
        raise BadRecordError(f"tool {number} is not of the form {shape}")
    function = value.get("function")
    if not isinstance(function, Mapping):
        raise BadRecordError(f"tool {number} has no 'function' object; the form is {shape}")
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise BadRecordError(f"tool {number} has no function name")
    # OpenAI lets a function without arguments leave `parameters` out.
    if not isinstance(function.get("parameters", {}), Mapping):
        raise BadRecordError(f"parameters of tool {number} ({name}) must be a JSON schema object")
    return dict(value)


def decoded(value: Any, column: str) -> Any:
    """`value`, or the JSON in it if it is a string; None where there is nothing.

    CSV has only strings, and many Parquet files keep nested columns as JSON strings.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRecordError(f"{column!r} is a string that is not valid JSON: {error}") from None


def _refuse_unwritable(prompt: Prompt) -> None:
    """A prompt must be hashable and encodable: JSON can name half characters, Parquet other types."""
    try:
        (prompt.id + prompt.group + prompt.key()).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise BadRecordError(f"holds {half!a}, half of a surrogate pair, which is not a character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRecordError(f"cannot be written as JSON: {error}") from None


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _kind(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
