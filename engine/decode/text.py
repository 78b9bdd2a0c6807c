"""Token ids to readable pieces, holding back bytes until they make a whole character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"
_WINDOW = 16  # ids of context: enough for any character and for merges across a space


class TextStream:
    """Pieces of an answer that is still being written; joined, they are the whole text.

    A token that ends inside a character (Chinese, emoji) gives an empty piece and the token that
    completes it gives the character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # ids whose text is already out

    def emit(self, token_id: int) -> str:
        """Add an id to the answer and return the text it completes."""
        self._ids.append(token_id)
        text = self._new_text(self._ids)
        if text.endswith(_BROKEN) and len(self._ids) - self._shown < _WINDOW:
            return ""
        self._shown = len(self._ids)
        return text

    def peek(self, token_ids: Sequence[int]) -> list[str]:
        """Pieces that ids not added to the answer would have had, such as refused ones."""
        trial = TextStream(self._tokenizer)
        trial._ids, trial._shown = list(self._ids[-_WINDOW:]), min(self._shown, _WINDOW)
        trial._shown = len(trial._ids) - (len(self._ids) - self._shown)
        return [trial.emit(token) for token in token_ids]

    def _new_text(self, ids: list[int]) -> str:
        start = max(0, self._shown - _WINDOW)
        before = self._tokenizer.decode(ids[start : self._shown])
        whole: str = self._tokenizer.decode(ids[start:])
        return whole[len(before) :]
