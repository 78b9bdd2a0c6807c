"""The target's tokens as text, without loading the model: only its tokenizer is needed to tell their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.config.schema import ModelSpec
from engine.decode.text import TextStream
from engine.errors import DraftbenchError, boundary
from engine.slices.kinds import kinds_of_pieces

_TOKENIZER = "tokenizer.json"
_ANSWERS_KEPT = 20_000


class TokenReader:
    """The kinds of a target's tokens. Make it with `token_reader`."""

    def __init__(self, tokenizer: Any, special: frozenset[int], size: int) -> None:
        self._tokenizer, self._special, self._size = tokenizer, special, size
        self._kinds = lru_cache(maxsize=_ANSWERS_KEPT)(self._read)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens included: as `TextStream` asks for it."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token completes; joined, they are the whole text."""
        stream = TextStream(self)
        pieces = [stream.emit(token_id) for token_id in ids]
        return [*pieces[:-1], pieces[-1] + stream.finish()] if pieces else []

    def kinds(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The kind of each token of an answer. Raises DraftbenchError for an id that the tokenizer does not have."""
        return self._kinds(tuple(ids))

    def _read(self, ids: tuple[int, ...]) -> tuple[str, ...]:
        if ids and not 0 <= min(ids) <= max(ids) < self._size:
            raise DraftbenchError(
                f"the measurement holds token {max(ids)}, and the target's tokenizer has {self._size:,} tokens",
                "the target was replaced since, so its tokenizer would read other words",
                "put the target back, or measure the run again",
            )
        return tuple(kinds_of_pieces(self.pieces(ids), [token in self._special for token in ids]))


def token_reader(target: ModelSpec) -> TokenReader:
    """The reader of a target's tokens: its adapter's tokenizer if that has one, whose ids are those of its base.

    Raises DraftbenchError if the target is not at hand.
    """
    return _reader_in(_tokenizer_folder(target), target.trust_remote_code)


def _tokenizer_folder(target: ModelSpec) -> Path:
    from engine.models.locate import locate_adapter, locate_model  # loads torch, for models in other forms

    try:
        if target.adapter is not None:
            adapter = locate_adapter(target.adapter)
            if (adapter / _TOKENIZER).is_file():
                return adapter
        return locate_model(target)
    except DraftbenchError as error:
        raise DraftbenchError(
            f"the target's tokenizer cannot be read: {error.what}",
            "kinds of tokens are told by their text, and a measurement holds their ids",
            f"{error.fix}; slices by group, category, position, entropy and prompt need no tokenizer",
        ) from error


@lru_cache(maxsize=8)
def _reader_in(folder: Path, trust_remote_code: bool) -> TokenReader:
    if (folder / _TOKENIZER).is_file():
        from tokenizers import Tokenizer  # alone it loads in a moment; Transformers would load torch

        with boundary(f"could not load the tokenizer of {folder}", "put a whole tokenizer.json into the folder"):
            fast = Tokenizer.from_file(str(folder / _TOKENIZER))
        special = frozenset(i for i, token in fast.get_added_tokens_decoder().items() if token.special)
        return TokenReader(fast, special, fast.get_vocab_size())
    from engine.models.tokenizer import read_tokenizer

    slow = read_tokenizer(folder, trust_remote_code=trust_remote_code, settings=False)
    return TokenReader(slow, frozenset(slow.all_special_ids), len(slow))
