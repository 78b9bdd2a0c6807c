"""Magpie [Xu et al. 2024, arXiv 2406.08464]: where in a chat template the user speaks, found from the template itself.

The target is fed everything that comes before a user's first word and goes on writing: as the
user. Nothing here knows a template by name. Two prompts that differ in nothing but the user's
text are rendered; what their token ids have in common at the start is the opening, and what
they have in common at the end begins with the end of the user's turn. The first words of the
user's turn may be given: the target then goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from engine.chat.prompt import Message, Prompt, Tool
from engine.chat.rendering import render
from engine.chat.turns import first_mark
from engine.errors import DraftbenchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKERS = ("Quiet rivers bend", "How many")  # different letters at both ends, so no token is shared there


class _Turn(NamedTuple):
    """Ids of a rendered prompt: before the user's text, its first words, and what follows the text."""

    before: list[int]
    begun: list[int]
    after: list[int]


@dataclass(frozen=True)
class Opening:
    """Where the user speaks: the ids before, and what ends the turn.

    `ids` end with `begun`, the ids of the query's given first words, if there are any. `end_ids`
    are special tokens that end the turn; `end_text` is what ends it where the template writes it
    as plain text ("" otherwise). `system_place` says where the steering went: "system", or "user"
    where the template knows no system role and it opens the user's turn.
    """

    ids: tuple[int, ...]
    end_ids: frozenset[int]
    end_text: str
    system_place: Literal["none", "system", "user"]
    begun: tuple[int, ...] = ()

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
    words: str = "",
    context_tokens: int | None,
    max_new_tokens: int,
) -> Opening:
    """The opening for a system prompt (None keeps the template's default) and tools, as `render` writes them.

    `words` begin the query: a turn that says them is rendered whole, so that they are split into
    tokens as the tokenizer does behind this template, and is cut where the turn ends.
    A template that refuses or ignores a system message gets it at the start of the user's turn,
    as Gemma's newer templates do. Raises DraftbenchError for a tokenizer without a chat
    template, a template or tokenizer that changes the user's text, and an opening too long for
    the context.
    """

    def turn(*messages: Message, joined: str = "") -> _Turn:
        def ids_of(text: str) -> list[int]:
            prompt = Prompt("magpie", (*messages, {"role": "user", "content": joined + text}), tuple(tools))
            return render(tokenizer, prompt, context_tokens=context_tokens, max_new_tokens=max_new_tokens)

        before, after = _common_ends(tokenizer, [ids_of(marker) for marker in _MARKERS])
        if not words:
            return _Turn(before, [], after)
        return _begin(tokenizer, words, _Turn(before, ids_of(words), after))

    if system is None:
        return _opening(tokenizer, turn(), "none")
    plain = turn()
    try:
        steered = turn({"role": "system", "content": system})
    except DraftbenchError:
        steered = plain  # a template that refuses a system message; one that is too long is refused again below
    if steered.before != plain.before:
        return _opening(tokenizer, steered, "system")
    return _opening(tokenizer, turn(joined=system + "\n\n"), "user")


def template_marks(tokenizer: PreTrainedTokenizerBase, opening: Opening) -> frozenset[str]:
    """Texts that only a template writes: special tokens, added tokens it names, a plain end of the turn."""
    template = str(tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder.values()
    named = {str(token.content) for token in added if token.special or str(token.content) in template}
    return frozenset(mark for mark in {*named, *tokenizer.all_special_tokens, opening.end_text} if mark.strip())


def _begin(tokenizer: PreTrainedTokenizerBase, words: str, turn: _Turn) -> _Turn:
    """The turn whose `begun` is cut from a whole prompt that says `words`.

    A tokenizer may write the last blank of the template and the first word as one token; it is the words' then.
    """
    start, end = _common_length(turn.before, turn.begun), len(turn.begun) - len(turn.after)
    begun = turn.begun[start:end]
    said = tokenizer.decode(begun, skip_special_tokens=False).strip()
    if turn.begun[end:] != turn.after or said != words:
        raise DraftbenchError(
            f"the opening {words!r} becomes {said!r} in the target's tokens",
            "the query would not begin with it",
            "use another opening, or null to let the target begin",
        )
    return _Turn(turn.before[:start], begun, turn.after)


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


def _opening(tokenizer: PreTrainedTokenizerBase, turn: _Turn, place: Literal["none", "system", "user"]) -> Opening:
    """What follows the user's text ends the turn: its first token if that is a special one, else its text."""
    written, mark = first_mark(tokenizer, turn.after)
    text = tokenizer.decode(written, skip_special_tokens=False).strip()
    ends = frozenset() if text or mark is None else frozenset([mark])
    return Opening((*turn.before, *turn.begun), ends, text, place, tuple(turn.begun))
