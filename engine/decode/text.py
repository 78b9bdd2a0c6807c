"""Token ids to readable pieces, holding back bytes until they make a whole character."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from engine.decode.events import EMITTED, Round, Token

_BROKEN = "\ufffd"
_WINDOW = 16  # ids of context: enough for any character and for merges across a space


def text_of(rounds: Iterable[Round]) -> str:
    """The answer that rounds with text make up."""
    return "".join(token.text for item in rounds for token in item.tokens if token.fate in EMITTED)


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
        text, end = self._new_text(self._ids), len(self._ids)
        if text.endswith(_BROKEN):
            if end - self._shown < _WINDOW:
                return ""
            text, end = self._before_last_character(text)
        self._shown = end
        return text

    def finish(self) -> str:
        """Return the text still held when the answer ends: bytes that no token will complete any more."""
        text = self._new_text(self._ids) if self._shown < len(self._ids) else ""
        self._shown = len(self._ids)
        return text

    def read(self, new: Round) -> Round:
        """Add the answer's next round and return it with the text of its tokens and of their alternatives.

        Refused tokens read as they would have read in their place. In the last round the final
        token of the answer takes the text that is still held back.
        """
        refused_ids = [token.token_id for token in new.tokens if token.fate not in EMITTED]
        refused: list[str] = []
        tokens: list[Token] = []
        for token in new.tokens:
            others = tuple(replace(other, text=self.peek([other.token_id])[0]) for other in token.alternatives)
            if token.fate in EMITTED:
                text = self.emit(token.token_id)
            else:  # all refused tokens follow the accepted ones
                refused = refused or self.peek(refused_ids)
                text = refused[len(tokens) - new.accepted]
            tokens.append(replace(token, text=text, alternatives=others))
        if new.finish_reason and new.emitted:
            last = max(i for i, token in enumerate(tokens) if token.fate in EMITTED)
            tokens[last] = replace(tokens[last], text=tokens[last].text + self.finish())
        return replace(new, tokens=tuple(tokens))

    def peek(self, token_ids: Sequence[int]) -> list[str]:
        """Pieces that ids not added to the answer would have had, such as refused ones."""
        trial = TextStream(self._tokenizer)
        trial._ids = list(self._ids[-_WINDOW:])
        trial._shown = len(trial._ids) - (len(self._ids) - self._shown)
        return [trial.emit(token) for token in token_ids]

    def _new_text(self, ids: list[int]) -> str:
        start = max(0, self._shown - _WINDOW)
        before = self._tokenizer.decode(ids[start : self._shown])
        whole: str = self._tokenizer.decode(ids[start:])
        return whole[len(before) :]

    def _before_last_character(self, text: str) -> tuple[str, int]:
        """The part of held bytes that no later id can change, as text, and where it ends."""
        for end in range(len(self._ids) - 1, self._shown, -1):
            piece = self._new_text(self._ids[:end])
            if piece + self._tokenizer.decode(self._ids[end:]) == text:
                return piece, end
        return text, len(self._ids)
