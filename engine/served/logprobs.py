"""What a server tells of its own tokens: which ids they certainly are, and how likely the target held them.

Acceptance needs q of the very token that was drawn, behind the very tokens that came before it. Text does not say
which these were: a word can be spelt with other tokens than the tokenizer would choose. So an answer is followed
as far as each of its tokens has one possible id, and what comes behind the first that has none is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch

from engine.served.replies import Reply, ToldToken

_UNKNOWN = (math.nan, math.nan)
_CERTAIN = (0.0, 0.0)  # at temperature 0 all probability is on the token that was written


class Spelling:
    """The bytes that each id of a tokenizer spells, and the ids that bytes may be."""

    def __init__(self, tokenizer: Any) -> None:
        self._bytes = _spelt(tokenizer)
        self._special = set(tokenizer.all_special_ids)
        self._ids: dict[bytes, list[int]] = {}
        for token_id, spelt in self._bytes.items():
            self._ids.setdefault(spelt, []).append(token_id)

    def only_id(self, spelt: bytes) -> int | None:
        """The id that these bytes must be; None if there are none or several."""
        found = self._ids.get(spelt, [])
        return found[0] if len(found) == 1 and spelt else None

    def may_be(self, token_id: int, spelt: bytes | None) -> bool:
        """Whether an id can be the token that a server spells so. Marks such as the end of turn are spelt by few."""
        ours = self._bytes.get(token_id)
        if spelt is None or (not spelt and token_id in self._special):
            return True
        return ours is None or ours == spelt


def certain_ids(reply: Reply, spelling: Spelling, vocab_rows: int) -> list[int]:
    """Ids of the answer's tokens, up to the first that may be another one; none if they do not make the answer's text."""
    told = reply.tokens
    if not _are_the_text(reply):
        return []
    known: Sequence[int | None] = [token.id for token in told]
    if reply.token_ids is not None and len(reply.token_ids) - len(told) in (0, 1):  # the end of turn may have no entry
        known = reply.token_ids
    found: list[int] = []
    for token, told_id in zip(told, known, strict=False):
        token_id = told_id if told_id is not None else spelling.only_id(token.spelt or b"")
        if token_id is None or not 0 <= token_id < vocab_rows or not spelling.may_be(token_id, token.spelt):
            break
        found.append(token_id)
    return found


def _are_the_text(reply: Reply) -> bool:
    """Whether the tokens hold all that the answer says: a server may have left some out, as those of its reasoning."""
    if any(token.spelt is None for token in reply.tokens):
        return True  # by their ids alone
    whole = spelt(reply.tokens)
    return all(part.strip("\ufffd \t\n") in whole for part in (reply.text, reply.reasoning))


def spelt(told: Sequence[ToldToken]) -> str:
    """The text of some tokens."""
    return b"".join(token.spelt or b"" for token in told).decode("utf-8", "replace")


def told_signal(ids: Sequence[int], certain: int, told: Sequence[ToldToken], temperature: float) -> torch.Tensor:
    """[token, 8] uint8: log p of the token drawn and of the likeliest one, as float32; NaN where it is not certain.

    At temperature 0 both are 0 where the id is certain. Elsewhere the server's figures hold for temperature 1.
    """
    rows = [_UNKNOWN] * len(ids)
    for place in range(min(certain, len(ids))):
        if temperature == 0:
            rows[place] = _CERTAIN
        elif place < len(told):
            drawn, best = told[place].logprob, told[place].best
            rows[place] = (math.nan if drawn is None else drawn, math.nan if best is None else best)
    return torch.tensor(rows, dtype=torch.float32).reshape(len(ids), 2).view(torch.uint8)


def read_told(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """raw: [position, 8] uint8 -> log p of the token drawn and of the likeliest one, both [position] float32."""
    drawn, best = raw.contiguous().view(torch.float32).reshape(-1, 2).unbind(-1)
    return drawn, torch.maximum(best, drawn)


def _spelt(tokenizer: Any) -> dict[int, bytes]:
    """Bytes by id; without the ids of which it cannot be said."""
    added = {i: str(token.content).encode("utf-8", "replace") for i, token in tokenizer.added_tokens_decoder.items()}
    fast = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(fast.to_str()).get("decoder")) if fast is not None else ""
    vocabulary = {i: piece for piece, i in tokenizer.get_vocab().items() if i not in added}
    if "ByteLevel" in decoder:
        letters = _byte_letters()
        plain = {i: _of_letters(piece, letters) for i, piece in vocabulary.items()}
    elif "ByteFallback" in decoder:
        plain = {i: _of_piece(piece) for i, piece in vocabulary.items()}
    else:
        return added
    return added | {i: found for i, found in plain.items() if found is not None}


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies [GPT-2]: its own if it can be seen, else one
    behind the first 256."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _of_letters(piece: str, letters: dict[str, int]) -> bytes | None:
    return bytes(letters[letter] for letter in piece) if all(letter in letters for letter in piece) else None


def _of_piece(piece: str) -> bytes:
    """Of a SentencePiece vocabulary: a byte such as <0x0A>, or text with a bar for each space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode("utf-8", "replace")
