"""One record of a prompt file made into a Prompt, or into the reason why it is not one.

Pure functions; the reasons are shown to the user beside the file and the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config import PromptSource
from engine.data.messages import BadRecordError as BadRecordError
from engine.data.messages import decoded as decoded
from engine.data.messages import kind, normal, normal_tools
from engine.data.prompts import Message, Prompt, Tool


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
        raise BadRecordError(f"id must be text or a number, not {kind(value)}")
    return str(value)


def _messages(record: Mapping[str, Any], source: PromptSource) -> tuple[Message, ...]:
    value = decoded(record.get(source.messages_column), source.messages_column)
    if value is not None:
        return _asked(normal(value, source.messages_column))
    text = record.get(source.prompt_column)
    if text is None:
        raise BadRecordError(
            f"has neither {source.messages_column!r} nor {source.prompt_column!r}; "
            f"it has: {', '.join(map(str, record)) or 'nothing'}"
        )
    if not isinstance(text, str):
        raise BadRecordError(f"{source.prompt_column!r} must be text, not {kind(text)}")
    if not text.strip():
        raise BadRecordError(f"{source.prompt_column!r} is empty")
    return ({"role": "user", "content": text},)


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages of a prompt: a question or a tool's answer is the last of them."""
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        raise BadRecordError(f"the last message is from {last['role']!r}; a prompt ends with 'user' or 'tool'")
    if last["role"] == "user" and not last["content"].strip():
        raise BadRecordError(f"content of message {len(messages)} (user) is empty, so nothing is asked")
    return messages


def _tools(record: Mapping[str, Any], source: PromptSource) -> tuple[Tool, ...]:
    return normal_tools(record.get(source.tools_column), source.tools_column)


def _refuse_unwritable(prompt: Prompt) -> None:
    """A prompt must be hashable and encodable: JSON can name half characters, Parquet other types."""
    try:
        (prompt.id + prompt.group + prompt.key()).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise BadRecordError(f"holds {half!a}, half of a surrogate pair, which is not a character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRecordError(f"cannot be written as JSON: {error}") from None
