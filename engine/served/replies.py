"""The body of a server's response as a Reply, or the reason why it is not one.

A stranger writes these bodies, so nothing in them is assumed to have the type that the API promises, and a missing
part is not taken for an empty one: an answer without content is requested again, never learnt as an empty answer.
Deviations in what is still an answer are counted (`Reply.noted`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.chat.finish_reasons import API, ending_of, ends_in_calls
from engine.chat.messages import BadRecordError, kind, text_of_part
from engine.served.reply_tokens import ReplyToken, is_count, read_reply_tokens
from engine.served.token_counts import FAR_OFF, far_from_text, far_from_tokens, impossible, misses_text
from engine.untrusted import json_text

__all__ = ["Reply", "ReplyToken", "Retry", "Unanswered", "read_reply"]

Shown = Callable[[object], str]
_WORD_CHARACTERS = 60
_REASONING_PARTS = ("thinking", "reasoning", "redacted_thinking")
_A_WORD = re.compile(r"[\w.:-]{1,40}")
_REASONING = re.compile(r"reasoning|think|thought|chain_of")  # LiteLLM's thinking_blocks, SGLang's reasoning_content


@dataclass(frozen=True)
class Reply:
    """A server's answer."""

    text: str
    finish_reason: Literal["stop", "length"]
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    reasoning: str = ""
    """Text that the server took out of the answer."""
    token_ids: list[int] | None = None
    """With the end of turn; None from servers that send no ids."""
    prompt_tokens: int | None = None
    tokens: list[ReplyToken] = field(default_factory=list)
    """With log-probabilities, if they were asked for and the server sends them."""
    completion_tokens: int | None = None
    """The server's own count; None if it sends none, or one that cannot be."""
    count_problem: str = ""
    """Why its count cannot be, such as 0 tokens beside a text."""
    noted: tuple[str, ...] = ()
    """Deviations from the API, in words to be counted."""
    server: str = ""
    """Address of the server that answered, where several share the load."""


class Unanswered(Exception):
    """A prompt got no usable answer; the message is the last cause, without the key.

    `exhausted`: every attempt failed for a transient reason, so the server may be gone. Otherwise the server did
    answer, but with nothing to learn from: it refused, or could not be understood.
    """

    def __init__(self, why: str, *, exhausted: bool = False) -> None:
        super().__init__(why)
        self.exhausted = exhausted


class Retry(Exception):
    """An attempt failed for a reason that may be transient. `gone`: the server itself does not answer at present."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


def read_reply(body: bytes, shown: Shown, request: Mapping[str, Any] | None = None) -> Reply:
    """Read the reply in a response's body. `shown` turns a stranger's text into a line that an error may quote.

    `request`: the request's body, with whose model and max_tokens the reply is compared. Raises Retry if the body is
    empty, broken, an error or has no content, and Unanswered if the answer was refused or cut off by a filter, is of
    another API, or has malformed calls.
    """
    if not body.strip():
        raise Retry("an empty answer")
    try:
        value = json_text.loads(body)
    except ValueError:
        raise Retry(f"an answer that is not whole JSON: {shown(body.decode('utf-8', 'replace'))}") from None
    try:
        return _reply(value, shown, request or {})
    except RecursionError:
        raise Unanswered("an answer that is nested too deeply (not retried)") from None


def _reply(body: Any, shown: Shown, request: Mapping[str, Any]) -> Reply:
    choice = _choice(body, shown)
    message = _message(choice)
    usage = _object(body.get("usage"))
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, counted = (count if is_count(count) else None for count in counts)
    text, parts = _text(message.get("content"), shown)
    has_answer = bool(text or message.get("tool_calls") or message.get("function_call"))
    allowed = request.get("max_tokens")
    count_problem = impossible(counted, has_answer=has_answer, allowed=allowed if is_count(allowed) else None)
    completion_tokens = None if count_problem else counted
    finish_reason, deviations = _finish(choice, completion_tokens, request, shown)
    reply = Reply(
        text,
        finish_reason,
        tool_calls=_calls(message, shown),
        reasoning=_reasoning(message, usage),
        token_ids=_token_ids(choice.get("token_ids")),
        prompt_tokens=prompt_tokens,
        tokens=read_reply_tokens(_object(choice.get("logprobs")).get("content")),
        completion_tokens=completion_tokens,
        count_problem=count_problem,
        noted=(*deviations, *parts, *_other_speaker(message, shown), *_other_model(body, request, shown)),
    )
    _refuse_missing_text(reply, counted, choice, shown)
    return replace(reply, noted=(*reply.noted, *_count_remarks(reply)))


def _count_remarks(reply: Reply) -> Iterator[str]:
    """What is to be said of the server's count of tokens."""
    if reply.count_problem:
        yield reply.count_problem
    tokens = len(reply.token_ids or reply.tokens)
    if (
        far_from_tokens(reply.completion_tokens, tokens)
        if tokens
        else far_from_text(reply.completion_tokens, _size(reply))
    ):
        yield FAR_OFF


def _choice(body: Any, shown: Shown) -> Mapping[str, Any]:
    """The first choice. Raises Retry if there is none, as in an error that came with status 200."""
    choices = body.get("choices") if isinstance(body, dict) else None
    listed = choices if isinstance(choices, list) else []
    choice = next((entry for entry in listed if _object(entry).get("index") == 0), listed[0] if listed else None)
    for holder in (body, choice):
        error = holder.get("error") if isinstance(holder, dict) else None
        if error:
            raise Retry(f"an error in place of an answer: {shown(_as_json(error))}")
    if not isinstance(choice, dict):
        raise Retry(f"an answer without choices: {shown(_as_json(body))}")
    return choice


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    if isinstance(message, dict):
        return message
    if isinstance(choice.get("text"), str):
        raise Unanswered("an answer of the completions API, which continues a text and holds no turn (not retried)")
    if isinstance(choice.get("delta"), dict):
        raise Unanswered("a piece of a stream, which was not asked for (not retried)")
    raise Retry("an answer without a message")


def _finish(
    choice: Mapping[str, Any], completion_tokens: int | None, request: Mapping[str, Any], shown: Shown
) -> tuple[Literal["stop", "length"], list[str]]:
    """How the answer ended, and deviations to be counted.

    If the server gives no finish_reason, the token count decides: an answer at the limit was cut, a shorter one ended.
    Without a count, an answer that was cut would be learnt as one that ended, so it is refused.
    """
    word, max_tokens = choice.get("finish_reason"), request.get("max_tokens")
    if word is None and completion_tokens is not None and is_count(max_tokens):
        return ("stop" if completion_tokens < max_tokens else "length"), ["no finish_reason"]
    if not isinstance(word, str) or not _A_WORD.fullmatch(word):
        raise Unanswered(f"the answer ended with finish_reason {shown(_as_json(word))} (not retried)")
    ending, name = ending_of(word), shown(repr(word))[:_WORD_CHARACTERS]
    if ending == "refused":
        raise Unanswered(f"the answer ended with finish_reason {name} (not retried)")
    if ending == "failed":
        raise Retry(f"the answer ended with finish_reason {name}")
    return ending, [] if word in API else [f"finish_reason {name}"]


def _text(content: Any, shown: Shown) -> tuple[str, list[str]]:
    """The text of a message, which some servers send in parts; and a note on content of another kind.

    Reasoning is no part of it. Raises Unanswered for any other part, such as a call: the text would not be whole.
    """
    if not isinstance(content, list):
        if content is None or isinstance(content, str):
            return content or "", []
        return "", [f"content that is {kind(content)}"]
    parts = [part for part in content if part is not None and _object(part).get("type") not in _REASONING_PARTS]
    if any(_object(part).get("refusal") for part in parts):
        raise Unanswered("the server refuses, in a part of its answer (not retried)")
    try:
        return "".join(text_of_part(part, "the answer") for part in parts), []
    except BadRecordError as error:
        raise Unanswered(f"{shown(str(error))} (not retried)") from None


def _calls(message: Mapping[str, Any], shown: Shown) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls") or []
    if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise Unanswered(f"function calls that cannot be read: {shown(_as_json(calls))} (not retried)")
    legacy = message.get("function_call")  # of the API before it had several calls
    return calls or ([{"type": "function", "function": legacy}] if isinstance(legacy, dict) and legacy else [])


def _reasoning(message: Mapping[str, Any], usage: Mapping[str, Any]) -> str:
    """Text that the server took out of the answer, or a note if the server only counts its tokens."""
    for name, value in message.items():
        if value and _REASONING.search(name):
            return value if isinstance(value, str) else _as_json(value)
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if any(_object(part).get("type") in _REASONING_PARTS for part in parts):
        return _as_json(parts)
    hidden = _object(usage.get("completion_tokens_details")).get("reasoning_tokens")
    return f"({hidden} tokens)" if is_count(hidden) and hidden > 0 else ""


def _other_speaker(message: Mapping[str, Any], shown: Shown) -> Iterator[str]:
    role = message.get("role", "assistant")
    if role not in ("assistant", None):
        yield f"answered as role {shown(repr(role))[:_WORD_CHARACTERS]}"
    if message.get("refusal") and message.get("content"):
        yield "a refusal beside the text"


def _other_model(body: Mapping[str, Any], request: Mapping[str, Any], shown: Shown) -> Iterator[str]:
    name, wanted = body.get("model"), request.get("model")
    if isinstance(name, str) and name and wanted and name != wanted:
        yield f"answered as model {shown(repr(name))[:_WORD_CHARACTERS]}"


def _size(reply: Reply) -> int:
    """Bytes of an answer's text and calls."""
    return len(reply.text.encode("utf-8", "replace")) + sum(len(_as_json(call)) for call in reply.tool_calls)


def _refuse_missing_text(reply: Reply, counted: int | None, choice: Mapping[str, Any], shown: Shown) -> None:
    """Raise Unanswered for a refusal and for missing calls, and Retry for a text that is missing or too short for the
    number of tokens.

    A token has at least one byte, so an answer of 57 tokens is neither "" nor "yes". Empty content is an answer if
    the server counts at most its end as a token.
    """
    message = _message(choice)
    refusal = message.get("refusal")
    calls_are_whole = reply.tool_calls or reply.token_ids is not None
    if isinstance(word := choice.get("finish_reason"), str) and ends_in_calls(word) and not calls_are_whole:
        raise Unanswered(f"an answer that ended with {shown(repr(word))[:_WORD_CHARACTERS]} and has none (not retried)")
    if refusal and not reply.text:
        words = refusal if isinstance(refusal, str) else _as_json(refusal)
        raise Unanswered(f"the server refuses: {shown(words)} (not retried)")
    if reply.token_ids is not None or reply.reasoning:
        return
    if not (reply.text or reply.tool_calls):
        content = message.get("content")
        may_be_empty = content == "" if counted is None else counted in (0, 1) and content in (None, "")
        if not (reply.finish_reason == "stop" and may_be_empty):
            raise Retry("an answer without text" + (f", of {counted} tokens" if counted else ""))
    size = _size(reply)
    if counted is not None and misses_text(counted, size, has_calls=bool(reply.tool_calls)):
        raise Retry(f"an answer of {counted} tokens with {size} bytes of text: a part of it is missing")


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _token_ids(value: Any) -> list[int] | None:
    """The ids as they were sent; whether the model at hand has them is checked by the caller."""
    is_list = isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    return value if is_list and value else None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
