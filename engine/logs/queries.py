"""Split a row of a user's own chat log into queries and the answers that followed them.

Logs come in several forms (OpenAI requests, ShareGPT turns, plain text). All of them have a list of messages, of which
the last ones are an answer. The answer is cut off and kept as the query's reference. A row that cannot be read as a
conversation is a BadRecordError, whose message can be shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from engine.chat.finish_reasons import ENDING_KEYS, ending_of, ending_word
from engine.chat.messages import ROLES, BadRecordError, decoded, normal
from engine.chat.prompt import Message, Prompt
from engine.config.schema import PromptSource
from engine.data.columns import at, opened_text
from engine.data.packs.bfcl import calls_text
from engine.data.records import bad_records, messages_of, to_prompt, tools_of

TEXT_BESIDE_CALLS = "text beside calls left aside"
_REASONING = ("reasoning_content", "reasoning", "thinking")
# The keys of a message that a template may read; what else a log keeps (times, names of users) is no part of the chat.
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", *_REASONING)
_SHOWN_CHARACTERS = 40
_MOST_SECONDS = 1e11


class LogSource(PromptSource):
    """A log file and its columns. Dots in a column's name go into objects: `request.messages`."""

    id_column: str = Field("id", description="column of the row's own name")
    conversation_column: str | None = Field(None, description="column that rows of one conversation share")
    time_column: str | None = Field(None, description="column of the time: prompts are kept in its order")
    reference_column: str | None = Field(None, description="column of the answer, if it is not the last message")

    def columns(self) -> tuple[str, ...]:
        """The columns of a prompt source and those that only a log has."""
        more = (self.id_column, self.conversation_column, self.time_column, self.reference_column)
        return (*super().columns(), *(name for name in more if name), *self.endings())

    def endings(self) -> tuple[str, ...]:
        """Where a row may say how its answer ended: in a column of its own, or around the answer's column."""
        parts = (self.reference_column or "").split(".")
        outer = ["", *(".".join(parts[:depth]) + "." for depth in range(1, len(parts)))]
        return tuple(f"{prefix}{name}" for prefix in outer for name in ENDING_KEYS)


@dataclass(frozen=True)
class Query:
    """A user's query in a log, and the answer that followed."""

    prompt: Prompt
    reference: str
    conversation: str
    """Unique, whether it is the log's own name or made of the row's position."""
    time: float
    """Seconds since 1970; 0 if the log has no time."""
    fallback_id: str
    """Made of the row's position: the prompt's id where the log has none."""
    named: bool
    """Whether the log names the row."""


def queries_of(
    record: Mapping[str, Any],
    source: LogSource,
    fallback_id: str,
    *,
    every_turn: bool,
    seen: Counter[str] | None = None,
) -> list[Query]:
    """Return the last query of the conversation in `record`, or one per turn of the user.

    `seen` counts translations into the normal form. Raises BadRecordError, whatever the record.
    """
    with bad_records():
        return _queries_of(record, source, fallback_id, Counter() if seen is None else seen, every_turn=every_turn)


def _queries_of(
    record: Mapping[str, Any], source: LogSource, fallback_id: str, seen: Counter[str], *, every_turn: bool
) -> list[Query]:
    (messages, endings), tools = _messages(record, source, seen), list(tools_of(record, source))
    given = _given_reference(record, source, seen)
    own_name = _text(at(record, source.id_column))
    name = own_name or fallback_id
    shared = _text(at(record, source.conversation_column))
    conversation = f"named {shared}" if shared else f"row {fallback_id}"
    ends = _ends_of_turns(messages) if every_turn else []
    last = _end_of_last(messages)
    queries = []
    for number, end in enumerate([*ends, last] if last not in ends else ends, 1):
        turn = f"-turn{number}" if every_turn else ""
        prompt = to_prompt(
            {"id": name + turn, "group": at(record, "group"), "messages": messages[:end], "tools": tools},
            PromptSource(path=source.path),
            fallback_id + turn,
        )
        own_ending = endings[end] if end < len(messages) else None
        of_row = next(filter(None, (_word(at(record, path)) for path in source.endings())), None)
        reference = _answer(messages[end:], own_ending or (of_row if end == last else None), seen)
        if given is not None and end == last:
            reference = _given(given, reference, of_row, source, seen)
        queries.append(
            Query(prompt, reference, conversation, _time(record, source), fallback_id + turn, named=bool(own_name))
        )
    return queries


def reference_of(message: Mapping[str, Any], seen: Counter[str]) -> str:
    """The text of an assistant's message in normal form: its calls in the form a prompt asks for, else its content.

    A prompt asks for nothing beside the calls, and a reference holds no reasoning: `seen` counts what is left aside.
    """
    if any(message.get(key) for key in _REASONING):
        seen["reasoning beside an answer left aside"] += 1
    text = str(message["content"]).strip()
    if calls := message.get("tool_calls"):
        seen[TEXT_BESIDE_CALLS] += bool(text)
        return calls_text({key: call["function"][key] for key in ("name", "arguments")} for call in calls)
    return text


def _answer(messages: Sequence[Message], ending: str | None, seen: Counter[str]) -> str:
    """The first of the assistant's messages that follow a query, if it is whole; "" without one.

    A further message would be a turn of its own.
    """
    roles = [message["role"] for message in messages]
    count = next((i for i, role in enumerate(roles) if role != "assistant"), len(roles))
    if not count:
        return ""
    if count > 1:
        seen["further message of the assistant after its answer left aside"] += count - 1
    return "" if _is_cut(ending, seen) else reference_of(messages[0], seen)


def _given(given: Mapping[str, Any], answer: str, ending: str | None, source: LogSource, seen: Counter[str]) -> str:
    """The answer of a column of its own, which comes before that of the messages."""
    if _is_cut(ending_word(given) or ending, seen):
        return ""
    reference = reference_of(given, seen)
    if reference and answer and answer != reference:
        seen[f"answer in the messages left aside beside {source.reference_column!r}, which says something else"] += 1
    return reference or answer


def _is_cut(ending: str | None, seen: Counter[str]) -> bool:
    """Whether an answer is no whole one: cut at a limit, refused or failed. It would be learnt as one that ended."""
    if ending is None or ending_of(ending) == "stop":
        return False
    seen[f"answer that ended with {ending[:_SHOWN_CHARACTERS]!r} left aside"] += 1
    return True


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _messages(
    record: Mapping[str, Any], source: LogSource, seen: Counter[str]
) -> tuple[list[Message], list[str | None]]:
    """The messages with the keys that a template may read, and how each says that it ended."""
    value = decoded(at(record, source.messages_column), source.messages_column)
    if isinstance(value, list):
        answered = _without_missing_answers(value)
        if len(answered) < len(value):
            seen["answer without content"] += 1
        record = {**record, source.messages_column: answered}  # a name with dots comes before a path
    messages = messages_of(record, source, seen)
    for key in (key for message in messages for key in message if key not in (*_MESSAGE_KEYS, *ENDING_KEYS)):
        seen[f"{key!r} of a message left aside"] += 1
    kept = [{key: inner for key, inner in message.items() if key in _MESSAGE_KEYS} for message in messages]
    return kept, [ending_word(message) for message in messages]


def _without_missing_answers(messages: list[Any]) -> list[Any]:
    """Drop the assistant's last messages if they have no content: a logged failure is not an empty answer."""
    end = len(messages)
    while end and _is_missing(messages[end - 1]):
        end -= 1
    return messages[:end]


def _is_missing(message: Any) -> bool:
    if not isinstance(message, Mapping) or ROLES.get(str(message.get("role", message.get("from")))) != "assistant":
        return False
    return all(message.get(key) in (None, []) for key in ("content", "value", "text", "tool_calls", "function_call"))


def _given_reference(record: Mapping[str, Any], source: LogSource, seen: Counter[str]) -> Mapping[str, Any] | None:
    """The answer that a column of its own holds, as a message in normal form; None without one."""
    value = at(record, source.reference_column)
    if isinstance(value, str) and '"role"' in value and isinstance(opened := opened_text(value), Mapping):
        value = opened if opened.get("role") == "assistant" else value  # a table keeps a message as JSON text
    if value is None or isinstance(value, str):
        return {"content": value} if value and value.strip() else None
    if isinstance(value, Mapping):
        return normal([{"role": "assistant", **value}], source.reference_column or "", seen)[0]
    inside = f": name a part of it, such as {source.reference_column}.0.message" if isinstance(value, list) else ""
    raise BadRecordError(f"{source.reference_column!r} must be text or a message{inside}")


def _end_of_last(messages: list[Message]) -> int:
    """The index at which the last answer begins."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise BadRecordError("it has no question: all messages are the assistant's")
    return end


def _ends_of_turns(messages: list[Message]) -> list[int]:
    """The index at which an answer begins, for each turn of the user that was answered."""
    roles = [*(message["role"] for message in messages), None]
    return [i + 1 for i, role in enumerate(roles[:-1]) if role == "user" and roles[i + 1] == "assistant"]


def _text(value: Any) -> str:
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    raise BadRecordError("names of rows and conversations must be text or numbers")


def _time(record: Mapping[str, Any], source: LogSource) -> float:
    """Seconds since 1970, also from milliseconds, smaller units and a date in digits alone; without a time zone it is
    UTC."""
    value = at(record, source.time_column)
    if value is None or value == "":
        return 0.0
    if isinstance(value, str):
        try:
            return _seconds(float(value), source)
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
    return _seconds(float(value), source)


def _seconds(number: float, source: LogSource) -> float:
    """A file may mix rows of two exporters: a number of seconds past the year 5000 is in milliseconds or less."""
    if not math.isfinite(number):
        raise BadRecordError(f"{source.time_column!r} is {number}, which is not a time")
    if (date := _date_in_digits(number)) is not None:
        return date.timestamp()
    while number > _MOST_SECONDS:
        number /= 1000
    return number


def _date_in_digits(number: float) -> datetime | None:
    """The date of 20260131, perhaps with hours, minutes and seconds; as seconds it would lie in 1970, 1976 or 2612."""
    digits = f"{number:.0f}"
    if len(digits) not in (8, 12, 14) or digits[:2] not in ("19", "20") or number != int(digits):
        return None
    try:
        return datetime.fromisoformat("T".join(filter(None, (digits[:8], digits[8:])))).replace(tzinfo=UTC)
    except ValueError:
        return None  # no such day: a number after all
