"""Turn a record of a prompt file into a Prompt, or into the reason why it is not one.

Pure functions; the reasons are shown to the user beside the file and the line.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from engine.chat.messages import BadRecordError as BadRecordError
from engine.chat.messages import decoded, kind, normal, normal_tools
from engine.chat.prompt import Message, Prompt, Tool
from engine.config.schema import PromptSource
from engine.data.columns import at
from engine.errors import Cancelled, DraftbenchError, first_line
from engine.untrusted import json_text

# Where other projects keep what is asked: ShareGPT, OpenAI's logged requests, Alpaca, question sets.
_USUAL_COLUMNS = {
    "messages_column": (
        "conversations",
        "conversation",
        "dialog",
        "dialogue",
        "chat",
        "request.messages",
        "body.messages",
    ),
    "prompt_column": ("instruction", "question", "query", "input", "text"),
}
_OPENS_MESSAGES = re.compile(r"\s*\[\s*\{")
_MAX_CHARACTERS = 4 * 1024**2  # of a record: a million tokens


def to_prompt(
    record: Mapping[str, Any], source: PromptSource, fallback_id: str, seen: Counter[str] | None = None
) -> Prompt:
    """Read the prompt in `record`, whose columns `source` names. `seen` counts translations into the normal form.

    `messages` wins over `prompt`, which becomes one user message. Raises BadRecordError, whatever the record.
    """
    with bad_records():
        counts: Counter[str] = Counter() if seen is None else seen
        return prompt_of(record, _asked(messages_of(record, source, counts)), source, fallback_id)


def prompt_of(
    record: Mapping[str, Any], messages: tuple[Message, ...], source: PromptSource, fallback_id: str
) -> Prompt:
    """Return the prompt of `messages` with the record's tools and labels. Raises BadRecordError."""
    prompt = Prompt(
        id=_identity(at(record, "id"), fallback_id),
        messages=messages,
        tools=tools_of(record, source),
        group=str(_filled(at(record, "group"))),
    )
    _refuse_unwritable(prompt)
    return prompt


@contextlib.contextmanager
def bad_records() -> Iterator[None]:
    """Turn whatever a record makes fail into a BadRecordError with the reason."""
    try:
        yield
    except (BadRecordError, DraftbenchError, Cancelled, MemoryError):
        raise
    except RecursionError:
        raise BadRecordError("is nested too deeply") from None
    except Exception as error:
        raise BadRecordError(f"cannot be read: {type(error).__name__}: {first_line(error)}") from error


def messages_of(record: Mapping[str, Any], source: PromptSource, seen: Counter[str]) -> tuple[Message, ...]:
    """The conversation of a record in normal form, with the system message of a column of its own."""
    value = decoded(at(record, source.messages_column), source.messages_column)
    messages = _plain_question(record, source, seen) if value is None else normal(value, source.messages_column, seen)
    text = at(record, source.prompt_column)
    if (
        value is not None
        and source.prompt_column != source.messages_column
        and isinstance(text, str)
        and text.strip() not in {"", *(m["content"].strip() for m in messages)}
    ):
        seen[f"{source.prompt_column!r} left aside beside {source.messages_column!r}, which says something else"] += 1
    system = next(
        (text for column in source.system_columns() if (text := at(record, column)) not in (None, "", [])), None
    )
    if system is None:
        return messages
    (first,) = normal([{"role": "system", "content": system}], "system", seen)
    if not first["content"].strip():
        return messages
    if messages[0]["role"] != "system":
        seen["column 'system' read as the system message"] += 1
        return (first, *messages)
    if messages[0]["content"].strip() != first["content"].strip():
        raise BadRecordError("has a system message, and a column 'system' that says something else")
    return messages


def tools_of(record: Mapping[str, Any], source: PromptSource) -> tuple[Tool, ...]:
    """The tool schemas of a record in OpenAI's form."""
    by_column = {column: normal_tools(at(record, column), column) for column in source.tools_columns()}
    present = {column: tools for column, tools in by_column.items() if tools}
    first = next(iter(present.values()), ())
    if any(tools != first for tools in present.values()):
        raise BadRecordError(f"has tools in {' and other ones in '.join(map(repr, present))}")
    return first


def plain(value: Any) -> Any:
    """Return a value of Arrow as JSON has it, without the keys that Arrow filled with nulls, at every depth.

    Arrow gives every struct of a column the same keys, so a key that a record never had comes back as None. A null
    that the author wrote looks the same and is dropped as well. A dict in which all keys were filled stays as an empty
    one: `{}` is how a tool without parameters was written. Times become ISO text, decimals numbers, and bytes text.
    Raises BadRecordError for bytes that are not UTF-8.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str | bytes):
        _refuse_long(len(value))
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRecordError("holds bytes that are not UTF-8 text") from None
    if isinstance(value, uuid.UUID):
        return str(value)
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def _filled(value: Any) -> Any:
    """The value, or "" for a missing or empty one; 0 and false are neither."""
    missing = value is None or value in ([], {}) or (isinstance(value, float) and value != value)
    return "" if missing else value


def _identity(value: Any, fallback: str) -> str:
    if value is None or value == "":
        return fallback
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRecordError(f"id must be text or a number, not {kind(value)}")
    return str(value)


def _plain_question(record: Mapping[str, Any], source: PromptSource, seen: Counter[str]) -> tuple[Message, ...]:
    """The conversation of a record with plain text, after the other columns of Alpaca's form."""
    column = source.prompt_column
    text = at(record, column)
    if text is None:
        raise BadRecordError(
            f"has neither {source.messages_column!r} nor {column!r}; it has: "
            f"{', '.join(map(str, record)) or 'nothing'}{_likely_column(record)}"
        )
    if not isinstance(text, str):
        raise BadRecordError(f"{column!r} must be text, not {kind(text)}")
    if not text.strip():
        raise BadRecordError(f"{column!r} is empty")
    if _is_conversation(text):
        raise BadRecordError(f"{column!r} is a list of messages as text; messages_column: {column} would read it")
    if not source.is_alpaca:
        return ({"role": "user", "content": text},)
    extra = _filled(at(record, "input"))
    if not isinstance(extra, str):
        raise BadRecordError(f"'input' must be text, not {kind(extra)}")
    question = f"{text}\n{extra}" if extra.strip() else text
    before = _history(decoded(at(record, "history"), "history"))
    seen["column 'input' joined to the instruction"] += bool(extra.strip())
    seen["column 'history' read as earlier turns"] += bool(before)
    return (*before, {"role": "user", "content": question})


def _is_conversation(text: str) -> bool:
    """Whether a text is a list of messages, as JSON or as Python prints it."""
    if not _OPENS_MESSAGES.match(text):
        return False
    try:
        value = decoded(text, "")
    except BadRecordError:
        return False
    return isinstance(value, list) and all(isinstance(each, dict) and {"role", "from"} & each.keys() for each in value)


def _likely_column(record: Mapping[str, Any]) -> str:
    """The setting that would read a record of another common form; "" if there is none."""
    for setting, names in _USUAL_COLUMNS.items():
        if name := next((name for name in names if at(record, name)), None):
            return f"; {setting}: {name} would read it"
    return ""


def _history(value: Any) -> tuple[Message, ...]:
    """Alpaca's earlier turns: pairs of a question and its answer."""
    if value is None:
        return ()
    pairs: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair) for pair in pairs):
        raise BadRecordError("'history' must be a list of pairs, each a question and its answer")
    turns = ((role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True))
    return tuple({"role": role, "content": text} for role, text in turns)


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Check that a question or a tool's answer is the last message, and return the messages."""
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        raise BadRecordError(f"the last message is from {last['role']!r}; a prompt ends with 'user' or 'tool'")
    if last["role"] == "user" and not last["content"].strip():
        raise BadRecordError(f"content of message {len(messages)} (user) is empty, so there is no question")
    return messages


def _refuse_unwritable(prompt: Prompt) -> None:
    """Refuse what cannot be written as JSON in UTF-8: lone surrogates and infinities, or other types from Parquet."""
    try:
        key = prompt.key()
        (prompt.id + prompt.group + key).encode("utf-8")
        if "NaN" in key or "Infinity" in key:  # perhaps as words in a text
            json.dumps([prompt.messages, prompt.tools], allow_nan=False)
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise BadRecordError(f"holds {half!a}, half of a surrogate pair, which is not a character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRecordError(f"cannot be written as JSON: {error}") from None
    _refuse_long(len(key))
    if json_text.too_deep([*prompt.messages, *prompt.tools]):
        raise BadRecordError("is nested too deeply")


def _refuse_long(characters: int) -> None:
    if characters > _MAX_CHARACTERS:
        raise BadRecordError(f"has {characters:,} characters; at most {_MAX_CHARACTERS:,} are read")
