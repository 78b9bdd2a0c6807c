"""Prompts that hold a mark of the target's template as text: rendered already, or with a token that ends a turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.chat.prompt import Prompt
from engine.chat.rendering import prompt_text
from engine.chat.turns import turns_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BRACKETED = re.compile(r"<[^<>\s]{2,40}>|\[/?[A-Z][A-Z_]{2,20}\]")  # <start_of_turn>, [/INST]
_LEAST = 3  # characters; a shorter token would be in ordinary text
_SHOWN = 5


def marks_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens, those that end an answer, and what the template writes in brackets around a message.

    Raises DraftbenchError if the template writes no message at all.
    """
    turns = turns_of(tokenizer)
    text = (turns.marks.turn.id,) if turns.marks.turn.is_text else ()
    ends = [str(tokenizer.convert_ids_to_tokens(id)) for id in sorted(turns.stop_ids) if id not in text]
    around = prompt_text(tokenizer, Prompt("", ({"role": "user", "content": "a"},))) + (turns.marks.turn.written or "")
    marks = (*map(str, tokenizer.all_special_tokens), *ends, *_BRACKETED.findall(around))
    return [mark for mark in dict.fromkeys(marks) if len(mark) >= _LEAST]


def marks_in(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """A line per mark that messages hold as text, such as "'<|im_end|>' in 3 of 200 prompts", most frequent first."""
    marks, holding = marks_of(tokenizer), Counter[str]()
    for prompt in prompts:
        text = "\n".join(str(message["content"]) for message in prompt.messages)
        holding.update(mark for mark in marks if mark in text)
    lines = [f"{mark!r} in {count:,} of {len(prompts):,} prompts" for mark, count in holding.most_common(_SHOWN)]
    return [*lines, f"{len(holding) - _SHOWN} more marks"] if len(holding) > _SHOWN else lines
