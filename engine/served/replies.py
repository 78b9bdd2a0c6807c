"""What a server's answer says: its body as a Reply, or why it is none.

A stranger writes these bodies, so nothing in them is taken to have the type that the API promises, and what is
absent is not taken for empty: an answer without content is asked for again, never learnt as one that says nothing.
What deviates and is still an answer is counted (`Reply.noted`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.chat.messages import kind
from engine.served.finish_reasons import API, ending_of
from engine.served.reply_tokens import ToldToken, is_count, told_tokens
from engine.untrusted import json_text

__all__ = ["Again", "Reply", "ToldToken", "Unanswered", "read_reply"]

Shown = Callable[[object], str]
_TOKENS_WITHOUT_TEXT = 8  # an end of turn and the like, which a server counts and does not write
_TOKENS_OF_CALLS = 64  # the same for marks around calls, and what a parser leaves out of them
_WORD_CHARACTERS = 60
_A_WORD = re.compile(r"[\w.:-]{1,40}")
_REASONING = re.compile(r"reasoning|think|thought|chain_of")  # LiteLLM's thinking_blocks, SGLang's reasoning_content


@dataclass(frozen=True)
class Reply:
    """What a server answered. `token_ids` only from servers that tell them, end of turn included.

    `tokens`: with log-probabilities, if they were asked for and the server tells them; else none. `noted`: in what it
    deviates from the API though it is an answer, in words to be counted.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    reasoning: str = ""  # text that the server took out of the answer
    token_ids: list[int] | None = None
    prompt_tokens: int | None = None
    tokens: list[ToldToken] = field(default_factory=list)
    completion_tokens: int | None = None
    noted: tuple[str, ...] = ()


class Unanswered(Exception):
    """One prompt got no usable answer; the message is the last cause, without the key.

    `in_vain`: every attempt failed in a way that may pass, so the server may be gone. Else the
    server did answer, only not with something to learn from: it refused, or was not understood.
    """

    def __init__(self, why: str, *, in_vain: bool = False) -> None:
        super().__init__(why)
        self.in_vain = in_vain


class Again(Exception):
    """An attempt failed in a way that may pass."""


def read_reply(body: bytes, shown: Shown, asked: Mapping[str, Any] | None = None) -> Reply:
    """The reply in a response's body; `shown` makes a line of a stranger's text that may be repeated in an error.

    `asked`: the request's body, whose model and max_tokens the reply is held against. Raises Again if the body is
    empty, broken, an error or has no content, and Unanswered if the answer was refused or cut off by a filter, is of
    another API, or has calls that are none.
    """
    if not body.strip():
        raise Again("an empty answer")
    try:
        told = json_text.loads(body)
    except ValueError:
        raise Again(f"an answer that is not whole JSON: {shown(body.decode('utf-8', 'replace'))}") from None
    try:
        return _reply(told, shown, asked or {})
    except RecursionError:
        raise Unanswered("an answer that is nested too deeply (not asked again)") from None


def _reply(told: Any, shown: Shown, asked: Mapping[str, Any]) -> Reply:
    choice = _choice(told, shown)
    message = _message(choice)
    usage = _object(told.get("usage"))
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, completion_tokens = (count if is_count(count) else None for count in counts)
    finish_reason, words = _finish(choice, completion_tokens, asked, shown)
    text, parts = _text(message.get("content"), shown)
    reply = Reply(
        text,
        finish_reason,
        _calls(message, shown),
        _reasoning(message, usage),
        _token_ids(choice.get("token_ids")),
        prompt_tokens,
        told_tokens(_object(choice.get("logprobs")).get("content")),
        completion_tokens,
        (*words, *parts, *_other_speaker(message, shown), *_other_model(told, asked, shown)),
    )
    _refuse_what_is_absent(reply, message, shown)
    return reply


def _choice(told: Any, shown: Shown) -> Mapping[str, Any]:
    """The first choice. Raises Again where there is none, as in an error that came with status 200."""
    choices = told.get("choices") if isinstance(told, dict) else None
    listed = choices if isinstance(choices, list) else []
    choice = next((each for each in listed if _object(each).get("index") == 0), listed[0] if listed else None)
    for holder in (told, choice):
        error = holder.get("error") if isinstance(holder, dict) else None
        if error:
            raise Again(f"an error in place of an answer: {shown(_as_json(error))}")
    if not isinstance(choice, dict):
        raise Again(f"an answer without choices: {shown(_as_json(told))}")
    return choice


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    if isinstance(message, dict):
        return message
    if isinstance(choice.get("text"), str):
        raise Unanswered("an answer of the completions API, which continues a text and holds no turn (not asked again)")
    if isinstance(choice.get("delta"), dict):
        raise Unanswered("a piece of a stream, which was not asked for (not asked again)")
    raise Again("an answer without a message")


def _finish(
    choice: Mapping[str, Any], completion_tokens: int | None, asked: Mapping[str, Any], shown: Shown
) -> tuple[Literal["stop", "length"], list[str]]:
    """How the answer ended, and what is to be counted of it.

    Where the server does not say, the count of its tokens does: at the limit it was cut, below it ended. Without a
    count an answer that was cut would be learnt as one that ended, so it is none.
    """
    word, most = choice.get("finish_reason"), asked.get("max_tokens")
    if word is None and completion_tokens is not None and is_count(most):
        return ("stop" if completion_tokens < most else "length"), ["no finish_reason"]
    if not isinstance(word, str) or not _A_WORD.fullmatch(word):
        raise Unanswered(f"the answer ended with finish_reason {shown(_as_json(word))} (not asked again)")
    ending, name = ending_of(word), shown(repr(word))[:_WORD_CHARACTERS]
    if ending == "refused":
        raise Unanswered(f"the answer ended with finish_reason {name} (not asked again)")
    if ending == "failed":
        raise Again(f"the answer ended with finish_reason {name}")
    return ending, [] if word in API else [f"finish_reason {name}"]


def _text(content: Any, shown: Shown) -> tuple[str, list[str]]:
    """Text of a message, which some servers send in parts; and what is to be counted of parts without text."""
    if not isinstance(content, list):
        odd = content is not None and not isinstance(content, str)
        return (content if isinstance(content, str) else ""), ([f"content that is {kind(content)}"] if odd else [])
    texts = [_object(part).get("text") for part in content]
    left = [part for part, text in zip(content, texts, strict=True) if not isinstance(text, str) and part is not None]
    kinds = {shown(str(_object(part).get("type", kind(part))))[:_WORD_CHARACTERS] for part in left}
    return "".join(text for text in texts if isinstance(text, str)), [
        f"a part of the content, {k}" for k in sorted(kinds)
    ]


def _calls(message: Mapping[str, Any], shown: Shown) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls") or []
    if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise Unanswered(f"function calls that cannot be read: {shown(_as_json(calls))} (not asked again)")
    older = message.get("function_call")  # of the API before it had several calls
    return calls or ([{"type": "function", "function": older}] if isinstance(older, dict) and older else [])


def _reasoning(message: Mapping[str, Any], usage: Mapping[str, Any]) -> str:
    """Text that the server took out of the answer, or a word for it where it only counts its tokens."""
    for name, value in message.items():
        if value and _REASONING.search(name):
            return value if isinstance(value, str) else _as_json(value)
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if any(_object(part).get("type") in ("thinking", "reasoning") for part in parts):
        return _as_json(parts)
    hidden = _object(usage.get("completion_tokens_details")).get("reasoning_tokens")
    return f"({hidden} tokens)" if is_count(hidden) and hidden > 0 else ""


def _other_speaker(message: Mapping[str, Any], shown: Shown) -> Iterator[str]:
    role = message.get("role", "assistant")
    if role not in ("assistant", None):
        yield f"answered as role {shown(repr(role))[:_WORD_CHARACTERS]}"
    if message.get("refusal") and message.get("content"):
        yield "a refusal beside the text"


def _other_model(told: Mapping[str, Any], asked: Mapping[str, Any], shown: Shown) -> Iterator[str]:
    name, wanted = told.get("model"), asked.get("model")
    if isinstance(name, str) and name and wanted and name != wanted:
        yield f"answered as model {shown(repr(name))[:_WORD_CHARACTERS]}"


def _refuse_what_is_absent(reply: Reply, message: Mapping[str, Any], shown: Shown) -> None:
    """Raises Unanswered for a refusal, and Again where the text is missing, or too short for the tokens counted.

    A token has at least a byte, so an answer of 57 tokens is no "" and no "yes". Content that is "" is an answer if
    the server counts no tokens but its end.
    """
    refusal = message.get("refusal")
    if refusal and not reply.text:
        words = refusal if isinstance(refusal, str) else _as_json(refusal)
        raise Unanswered(f"the server refuses: {shown(words)} (not asked again)")
    if reply.token_ids is not None or reply.reasoning:
        return
    counted = reply.completion_tokens
    if not (reply.text or reply.tool_calls):
        content = message.get("content")
        uncounted, nothing = counted is None and content == "", counted in (0, 1) and content in (None, "")
        is_empty = reply.finish_reason == "stop" and (uncounted or nothing)
        if not is_empty:
            raise Again("an answer without text" + (f", of {counted} tokens" if counted else ""))
    said = len(reply.text.encode("utf-8", "replace")) + sum(len(_as_json(call)) for call in reply.tool_calls)
    least = said + _TOKENS_WITHOUT_TEXT + (_TOKENS_OF_CALLS if reply.tool_calls else 0)
    if counted is not None and counted > least:
        raise Again(f"an answer of {counted} tokens with {said} bytes of text: a part of it is missing")


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _token_ids(told: Any) -> list[int] | None:
    """As they are told; which of them the model at hand has is for whoever knows it."""
    whole = isinstance(told, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in told)
    return told if whole and told else None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
