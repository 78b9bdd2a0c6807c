"""A text as token ids, where the tokenizer is a stranger's: one without an unknown token may have no id for it."""

from __future__ import annotations

from typing import Any

from engine.errors import boundary


def token_ids(tokenizer: Any, text: str, of: str) -> list[int]:
    """The ids of a text, without special tokens added. `of`: what the text is, such as "prompt 'a'".

    Raises DraftbenchError if the tokenizer has no token for a part of it.
    """
    with boundary(
        f"{of} cannot be written in the tokens of {tokenizer.name_or_path or type(tokenizer).__name__}",
        "leave out what it has no token for, or use a tokenizer with an unknown token or one that writes bytes",
        "the tokenizer refuses it",
    ):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
