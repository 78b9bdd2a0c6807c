"""What a chat template leaves out of a prompt that it renders, or writes elsewhere: said before the answer is believed.

`render` refuses a template that drops a whole message or a call. What remains is dropped on purpose, such as the
reasoning of earlier answers, or is of no effect, such as a key that the template never reads. Each is found by
rendering the prompt without it: equal texts say that nobody would notice. What is written in another place or form
is no loss, and is listed apart (`rewritten`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.chat.prompt import Message, Prompt, Tool
from engine.chat.rendering import conversation, prompt_text
from engine.errors import DraftbenchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CARRIED = ("role", "content", "tool_calls")  # `render` itself refuses to lose them
_RENDERED = 200  # prompts of a set that are rendered again without each of their parts


@dataclass(frozen=True)
class _Part:
    """A part of a prompt that the template does not write, and the number of its message; None for the tools."""

    name: str
    place: int | None = None


@dataclass(frozen=True)
class Unwritten:
    """What a template leaves out of a set of prompts: each kind of part, and in how many prompts it is left out.

    `looked_at` of the prompts were rendered: those with tools or keys of their own come first, then long ones, where
    there is most to lose.
    """

    parts: dict[str, int]
    looked_at: int

    def in_words(self) -> list[str]:
        """A line per kind of part, such as "'name' of user messages, in 3 of 200 prompts"."""
        return [f"{part}, in {count:,} of {self.looked_at:,} prompts" for part, count in self.parts.items()]


def unused(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[str]:
    """Sentences without a full stop on what the target would not see of `prompt`; empty if it sees all.

    Raises DraftbenchError for a prompt that cannot be rendered at all.
    """
    return [
        f"{part.name} is not written"
        if part.place is None
        else f"{part.name} {_named(prompt, part.place)} is not written"
        for part in _unwritten(tokenizer, prompt)
    ]


def unwritten(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> Unwritten:
    """What the target would not see of `prompts`, most frequent first.

    Raises DraftbenchError for a prompt that cannot be rendered at all.
    """
    looked_at = sorted(prompts, key=_carries_more, reverse=True)[:_RENDERED]
    parts: Counter[str] = Counter()
    for prompt in looked_at:
        parts.update(
            {
                part.name if part.place is None else f"{part.name} {prompt.messages[part.place]['role']} messages"
                for part in _unwritten(tokenizer, prompt)
            }
        )
    return Unwritten(dict(parts.most_common()), len(looked_at))


def rewritten(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[str]:
    """Whole sentences on what the target sees of `prompt` in another place or form than it was written.

    Raises DraftbenchError for a prompt that cannot be rendered at all.
    """
    text = prompt_text(tokenizer, prompt)
    moved = prompt.tools and not conversation(tokenizer, prompt)[1]
    said = ["The template has no place for tools, so they are written into the system text."] if moved else []
    for place, content in _unlike(prompt, text):
        lost = _same(tokenizer, _with(prompt, place, {**prompt.messages[place], "content": ""}), text)
        if not lost and not _thought_left_out(content, text) and not _cut(tokenizer, prompt, place, text):
            said.append(f"The text of {_named(prompt, place)} is written in another form.")
    return said


def _carries_more(prompt: Prompt) -> tuple[bool, int]:
    """Whether a prompt has more than text, and how long its longest text is: a template may cut it."""
    more = bool(prompt.tools) or any(key not in _CARRIED for message in prompt.messages for key in message)
    return more, max(len(str(message["content"])) for message in prompt.messages)


def _unwritten(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Iterator[_Part]:
    text = prompt_text(tokenizer, prompt)
    yield from _tools(tokenizer, prompt, text)
    yield from _messages(tokenizer, prompt, text)


def _tools(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> Iterator[_Part]:
    if not prompt.tools:
        return
    for key in dict.fromkeys(key for tool in prompt.tools for key in tool["function"] if key != "name"):
        if _same(tokenizer, replace(prompt, tools=tuple(_without(tool, key) for tool in prompt.tools)), text):
            yield _Part(f"{key!r} of the tools")
    for key in dict.fromkeys(key for tool in prompt.tools for key in tool if key not in ("type", "function")):
        outside = tuple({name: value for name, value in tool.items() if name != key} for tool in prompt.tools)
        if _same(tokenizer, replace(prompt, tools=outside), text):
            yield _Part(f"{key!r} beside the tools' functions")


def _messages(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> Iterator[_Part]:
    unlike = dict(_unlike(prompt, text))
    for place, message in enumerate(prompt.messages):
        if content := unlike.get(place):
            if _same(tokenizer, _with(prompt, place, {**message, "content": ""}), text):
                yield _Part("the text of", place)
            elif _thought_left_out(content, text):
                yield _Part("the reasoning in", place)
            else:
                for part in _cut(tokenizer, prompt, place, text):
                    yield _Part(f"the {part} of the text of", place)
        for key in (key for key in message if key not in _CARRIED):
            rest = {name: value for name, value in message.items() if name != key}
            if _same(tokenizer, _with(prompt, place, rest), text):
                yield _Part(f"{key!r} of", place)


def _unlike(prompt: Prompt, text: str) -> Iterator[tuple[int, str]]:
    """Place and text of each message whose text is not in `text` as it stands."""
    for place, message in enumerate(prompt.messages):
        content = str(message["content"]).strip()
        if content and content not in text:
            yield place, content


def _cut(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, place: int, text: str) -> list[str]:
    """Where a message's text is cut: another character at its end, its beginning or in its middle changes nothing."""
    message = prompt.messages[place]
    content = str(message["content"])
    first, last = len(content) - len(content.lstrip()), len(content.rstrip()) - 1

    def unread(at: int) -> bool:
        other = content[:at] + ("x" if content[at] not in "xX" else "o") + content[at + 1 :]
        return _same(tokenizer, _with(prompt, place, {**message, "content": other}), text)

    parts = [name for name, at in (("end", last), ("beginning", first)) if unread(at)]
    return parts or ["middle"] * unread((first + last) // 2)


def _thought_left_out(content: str, text: str) -> bool:
    return "</think>" in content and content.rpartition("</think>")[2].strip() in text


def _named(prompt: Prompt, place: int) -> str:
    return f"message {place + 1} ({prompt.messages[place]['role']})"


def _same(tokenizer: PreTrainedTokenizerBase, changed: Prompt, text: str) -> bool:
    try:
        return prompt_text(tokenizer, changed) == text
    except DraftbenchError:
        return False  # a template that fails without it does read it


def _with(prompt: Prompt, place: int, message: Message) -> Prompt:
    return replace(prompt, messages=(*prompt.messages[:place], message, *prompt.messages[place + 1 :]))


def _without(tool: Tool, key: str) -> Tool:
    function: dict[str, Any] = {name: value for name, value in tool["function"].items() if name != key}
    return {**tool, "function": function}
