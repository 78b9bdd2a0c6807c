"""Magpie [Xu et al. 2024, arXiv 2406.08464]: where in a chat template the user speaks, found from the template itself.

The target is fed everything that comes before a user's first word and goes on writing: as the
user. Nothing here knows a template by name. Two prompts that differ in nothing but the user's
text are rendered; what their token ids have in common at the start is the opening, and what
they have in common at the end begins with the end of the user's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.data.prompts import Message, Prompt, Tool
from engine.data.rendering import render
from engine.errors import DraftbenchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKERS = ("Quiet rivers bend", "How many")  # different letters at both ends, so no token is shared there


@dataclass(frozen=True)
class Opening:
    """Where the user speaks: the ids before, and what ends the turn.

    `end_ids` are special tokens that end it; `end_text` is what ends it where the template
    writes it as plain text ("" otherwise). `system_place` says where the steering went:
    "system", or "user" where the template knows no system role and it opens the user's turn.
    """

    ids: tuple[int, ...]
    end_ids: frozenset[int]
    end_text: str
    system_place: Literal["none", "system", "user"]

    def cut(self, text: str) -> tuple[str, bool]:
        """`text` up to the end of the turn written as plain text, and whether it was there."""
        if not self.end_text:
            return text, False
        before, found, _ = text.partition(self.end_text)
        return before, bool(found)


def find_opening(
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    tools: Sequence[Tool] = (),
    context_tokens: int | None,
    max_new_tokens: int,
) -> Opening:
    """The opening for a system prompt (None keeps the template's default) and tools, as `render` writes them.

    A template that refuses or ignores a system message gets it at the start of the user's turn,
    as Gemma's newer templates do. Raises DraftbenchError for a tokenizer without a chat
    template, a template that changes the user's text, and an opening too long for the context.
    """

    def ends_of(*messages: Message, joined: str = "") -> tuple[list[int], list[int]]:
        rendered = [
            render(
                tokenizer,
                Prompt("magpie", (*messages, {"role": "user", "content": joined + marker}), tuple(tools)),
                context_tokens=context_tokens,
                max_new_tokens=max_new_tokens,
            )
            for marker in _MARKERS
        ]
        return _common_ends(tokenizer, rendered)

    if system is None:
        return _opening(tokenizer, *ends_of(), "none")
    plain = ends_of()
    try:
        steered = ends_of({"role": "system", "content": system})
    except DraftbenchError:
        steered = plain  # a template that refuses a system message; one that is too long is refused again below
    if steered[0] != plain[0]:
        return _opening(tokenizer, *steered, "system")
    return _opening(tokenizer, *ends_of(joined=system + "\n\n"), "user")


def template_marks(tokenizer: PreTrainedTokenizerBase, opening: Opening) -> frozenset[str]:
    """Texts that only a template writes: special tokens, added tokens it names, a plain end of the turn."""
    template = str(tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder.values()
    named = {str(token.content) for token in added if token.special or str(token.content) in template}
    return frozenset(mark for mark in {*named, *tokenizer.all_special_tokens, opening.end_text} if mark.strip())


def _common_ends(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Ids that two renderings share at the start and at the end; what lies between must be the markers."""
    first, second = rendered
    start = _common_length(first, second)
    end = _common_length(first[:start:-1], second[:start:-1])
    for ids, marker in zip(rendered, _MARKERS, strict=True):
        between = tokenizer.decode(ids[start : len(ids) - end], skip_special_tokens=False)
        if between.strip() != marker:
            raise DraftbenchError(
                f"the chat template does not write a user's message as it is: {marker!r} became {between.strip()!r}",
                "where the user speaks cannot be found in it, so the target cannot be asked to go on as the user",
                "use a target whose template copies the message once and unchanged",
            )
    return first[:start], first[len(first) - end :]


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def _opening(
    tokenizer: PreTrainedTokenizerBase,
    before: Sequence[int],
    after: Sequence[int],
    place: Literal["none", "system", "user"],
) -> Opening:
    """What follows the user's text ends the turn: its first token if that is a special one, else its text."""
    added = tokenizer.added_tokens_decoder
    written: list[int] = []
    for token in after:
        if token in added and str(added[token].content).strip():
            break
        written.append(token)
    text = tokenizer.decode(written, skip_special_tokens=False).strip()
    ends = frozenset() if text else frozenset(after[len(written) : len(written) + 1])
    return Opening(tuple(before), ends, text, place)
