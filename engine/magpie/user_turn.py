"""Find where the user speaks in a chat template, for Magpie [Xu et al. 2024, arXiv 2406.08464].

The target is given everything that comes before a user's first word and continues it, as the user. No template is
known by name. Two prompts that differ only in the user's text are rendered: the token ids that they share at the start
are the opening, and those that they share at the end begin with the end of the user's turn. The first words of the
user's turn may be given; the target then continues from there.
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

_MARKERS = ("Quiet rivers bend", "How many")  # with different letters at both ends, so that they share no token


class _Turn(NamedTuple):
    """Ids of a rendered prompt: before the user's text, its first words, and what follows the text."""

    before: list[int]
    begun: list[int]
    after: list[int]


@dataclass(frozen=True)
class Opening:
    """The ids before the user's text, and what ends the user's turn."""

    ids: tuple[int, ...]
    """They end with `begun`."""
    end_ids: frozenset[int]
    """Special tokens that end the turn."""
    end_text: str
    """What ends the turn where the template writes plain text there; "" otherwise."""
    system_place: Literal["none", "system", "user"]
    """The message that holds the steering: "user" where the template has no system role."""
    begun: tuple[int, ...] = ()
    """The ids of the query's given first words."""

    def cut(self, text: str) -> tuple[str, bool]:
        """Cut `text` at the end of the turn if that is plain text; also whether it was there."""
        if not self.end_text:
            return text, False
        before, end, _ = text.partition(self.end_text)
        return before, bool(end)


def find_opening(
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    tools: Sequence[Tool] = (),
    words: str = "",
    context_tokens: int | None,
    max_new_tokens: int,
) -> Opening:
    """Find the opening for a system prompt (None keeps the template's default) and tools, as `render` writes them.

    `words` begin the query: a complete turn with them is rendered, so that they are tokenised as in their context, and
    cut where the turn ends. A template that refuses or ignores a system message gets it at the start of the user's
    turn, as Gemma's newer templates do. Raises DraftbenchError for a tokenizer without a chat template, a template or
    tokenizer that changes the user's text, and an opening too long for the context.
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
    """Texts that only the template writes: special tokens, added tokens in its text, a plain end of the turn."""
    template = str(tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder.values()
    named = {str(token.content) for token in added if token.special or str(token.content) in template}
    return frozenset(mark for mark in {*named, *tokenizer.all_special_tokens, opening.end_text} if mark.strip())


def _begin(tokenizer: PreTrainedTokenizerBase, words: str, turn: _Turn) -> _Turn:
    """Cut the ids of `words` out of a complete prompt with them.

    A tokenizer may join the last blank of the template and the first word to one token, which then counts as a word's.
    """
    start, end = _common_length(turn.before, turn.begun), len(turn.begun) - len(turn.after)
    begun = turn.begun[start:end]
    decoded = tokenizer.decode(begun, skip_special_tokens=False).strip()
    if turn.begun[end:] != turn.after or decoded != words:
        raise DraftbenchError(
            f"the opening {words!r} becomes {decoded!r} in the target's tokens",
            "the query would not begin with it",
            "use another opening, or null to let the target begin",
        )
    return _Turn(turn.before[:start], begun, turn.after)


def _common_ends(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """The ids that two renderings share at the start and at the end; the text between must be the markers."""
    first, second = rendered
    start = _common_length(first, second)
    end = _common_length(first[:start:-1], second[:start:-1])
    for ids, marker in zip(rendered, _MARKERS, strict=True):
        between = tokenizer.decode(ids[start : len(ids) - end], skip_special_tokens=False)
        if between.strip() != marker:
            raise DraftbenchError(
                f"the chat template does not write a user's message as it is: {marker!r} became {between.strip()!r}",
                "the place of the user's text cannot be found, so the target cannot continue as the user",
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
    """The opening of a turn, which is ended by the first token after the user's text if it is special, else by text."""
    before_mark, mark = first_mark(tokenizer, turn.after)
    text = tokenizer.decode(before_mark, skip_special_tokens=False).strip()
    ends = frozenset() if text or mark is None else frozenset([mark])
    return Opening((*turn.before, *turn.begun), ends, text, place, tuple(turn.begun))
