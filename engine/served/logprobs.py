"""What a server says about its own tokens: their ids where these are certain, and their log-probabilities.

Acceptance needs q of the very token that was drawn, after the very tokens that came before it. Text alone does not
give them: a word can be split into other tokens than the tokenizer would choose. So an answer is followed as far as
each of its tokens has one possible id, and everything after the first token that has none is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch

from engine.served.replies import Reply
from engine.served.reply_tokens import ReplyToken

Spelling = Literal["same", "more", "other"]
_UNKNOWN = (math.nan, math.nan)
_CERTAIN = (0.0, 0.0)  # at temperature 0 all probability is on the token that was written


class TokenBytes:
    """The bytes that each id of a tokenizer stands for, and the ids that stand for given bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._bytes = _bytes_of_ids(tokenizer)
        self._special = set(tokenizer.all_special_ids)
        self._ids: dict[bytes, list[int]] = {}
        for token_id, text in self._bytes.items():
            self._ids.setdefault(text, []).append(token_id)

    def unique_id(self, text: bytes) -> int | None:
        """The id that these bytes must be; None if there are none or several."""
        ids = self._ids.get(text, [])
        return ids[0] if len(ids) == 1 and text else None

    def text_of(self, ids: Sequence[int | None]) -> str | None:
        """The text that some ids spell; None if one of them is not known."""
        pieces = [None if token_id is None else self._bytes.get(token_id) for token_id in ids]
        known = [piece for piece in pieces if piece is not None]
        return b"".join(known).decode("utf-8", "replace") if len(known) == len(pieces) else None

    def matches(self, token_id: int, text: bytes | None, *, as_shown: bool = False) -> bool:
        """Whether an id can be the token with these bytes. Few servers send bytes for marks such as the end of turn.

        `as_shown`: the bytes are those of the text that the server shows for the token. Of a token that is half a
        character vLLM shows nothing, a mark or the whole character, and of others perhaps not the space before them.
        """
        own = self._bytes.get(token_id)
        if text is None or (not text and token_id in self._special):
            return True
        if own is None or own == text:
            return True
        return as_shown and (not _is_text(own) or own.strip() == text.strip())


def certain_ids(reply: Reply, token_bytes: TokenBytes, vocab_rows: int, *, as_shown: bool = False) -> list[int]:
    """Ids of the answer's tokens up to the first that is not certain; none if the tokens are not the answer's text.

    `as_shown`: of `TokenBytes.matches`, for ids that the server sends.
    """
    tokens = reply.tokens
    sent: Sequence[int | None] = [token.id for token in tokens]
    if reply.token_ids is not None and len(reply.token_ids) - len(tokens) in (0, 1):  # an end of turn without an entry
        sent = reply.token_ids
    by_ids = as_shown or any(token.text is None for token in tokens)
    if not _cover_the_text(reply, token_bytes.text_of(sent) if by_ids else None):
        return []
    ids: list[int] = []
    for token, sent_id in zip(tokens, sent, strict=False):
        token_id = sent_id if sent_id is not None else token_bytes.unique_id(token.text or b"")
        if token_id is None or not 0 <= token_id < vocab_rows:
            break
        if not token_bytes.matches(token_id, token.text, as_shown=as_shown and sent_id is not None):
            break
        ids.append(token_id)
    return ids


def spelling_of(tokenizer: Any, ids: Sequence[int], reply: Reply, stop_ids: Collection[int]) -> Spelling:
    """Whether ids spell the text of an answer, or it and more (such as reasoning that is not shown), or other text.

    White space, pieces of characters and marks do not count, since servers show or drop them in ways of their own. Of
    an answer that was taken apart into calls or reasoning, the text and the names of the functions must be there.
    """
    wholes = [list(ids), list(ids[:-1])] if ids and ids[-1] in stop_ids else [list(ids)]
    spelt = [_letters(str(tokenizer.decode(w, skip_special_tokens=skip))) for w in wholes for skip in (True, False)]
    functions = [call.get("function") for call in reply.tool_calls]
    parts = [reply.text, *(str(each.get("name", "")) for each in functions if isinstance(each, dict))]
    if any(all(_letters(part) in text for part in parts) for text in spelt):
        taken_apart = bool(reply.tool_calls or reply.reasoning)
        if taken_apart or _letters(reply.text) in spelt:
            return "same"
        return "more" if _letters(reply.text) else "other"
    return "other"


def _letters(text: str) -> str:
    """A text without white space and without marks for pieces of characters."""
    return "".join(text.replace("\ufffd", "").split())


def _cover_the_text(reply: Reply, spelt: str | None) -> bool:
    """Whether the tokens hold all of the answer: a server may have left some out, such as those of its reasoning.

    `spelt`: what the ids spell; None if that is not known.
    """
    if spelt is None and any(token.text is None for token in reply.tokens):
        return True  # known by their ids alone
    whole = text_of(reply.tokens) if spelt is None else spelt
    return all(part.strip("\ufffd \t\n") in whole for part in (reply.text, reply.reasoning))


def text_of(tokens: Sequence[ReplyToken]) -> str:
    """The text of some tokens."""
    return b"".join(token.text or b"" for token in tokens).decode("utf-8", "replace")


def encode_logprobs(ids: Sequence[int], certain: int, tokens: Sequence[ReplyToken], temperature: float) -> torch.Tensor:
    """[token, 8] uint8: log p of the token drawn and of the likeliest one, as float32; NaN where the id is not certain.

    At temperature 0 both are 0 where the id is certain. At others the server's values hold for temperature 1.
    """
    rows = [_UNKNOWN] * len(ids)
    for position in range(min(certain, len(ids))):
        if temperature == 0:
            rows[position] = _CERTAIN
        elif position < len(tokens):
            drawn, top = tokens[position].logprob, tokens[position].top_logprob
            rows[position] = (math.nan if drawn is None else drawn, math.nan if top is None else top)
    return torch.tensor(rows, dtype=torch.float32).reshape(len(ids), 2).view(torch.uint8)


def decode_logprobs(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """raw: [position, 8] uint8 -> log p of the token drawn and of the likeliest one, both [position] float32."""
    drawn, top = raw.contiguous().view(torch.float32).reshape(-1, 2).unbind(-1)
    return drawn, torch.maximum(top, drawn)


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bytes_of_ids(tokenizer: Any) -> dict[int, bytes]:
    """Bytes by id, without the ids whose bytes are not known."""
    added = {i: str(token.content).encode("utf-8", "replace") for i, token in tokenizer.added_tokens_decoder.items()}
    fast = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(fast.to_str()).get("decoder")) if fast is not None else ""
    pieces = {i: piece for piece, i in tokenizer.get_vocab().items() if i not in added}
    if "ByteLevel" in decoder:
        letters = _byte_letters()
        known = {i: piece for i, piece in pieces.items() if all(letter in letters for letter in piece)}
        return added | {i: bytes(letters[letter] for letter in piece) for i, piece in known.items()}
    if "ByteFallback" in decoder:
        return added | {i: _sentencepiece_bytes(piece) for i, piece in pieces.items()}
    return added


def _byte_letters() -> dict[str, int]:
    """The letter for each byte in byte-level vocabularies [GPT-2]: its own if visible, else one after the first 256."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _sentencepiece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece token: a byte such as <0x0A>, or text with a bar for each space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode("utf-8", "replace")
