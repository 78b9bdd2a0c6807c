"""The likeliest tokens that a server sends at each position, as a compact signal: they, and one bucket for all others.

A server sends at most so many tokens as were asked for, so the signal is truncated: the rest of the distribution is a
sum. What the bucket holds is exact all the same, as long as the log-probabilities are those of the whole distribution:
it is what the tokens with a certain id leave of one. A token without a certain id is in the bucket with its mass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.capture.signal import SignalFormat
from engine.records.capture import AnswerSignal
from engine.served.logprobs import TokenBytes
from engine.served.replies import Unanswered
from engine.served.reply_tokens import Alternative, ReplyToken

_MOST_MASS = 1.01  # of tokens whose log-probabilities some servers round to two digits
_SAME = 1e-3  # between two log-probabilities of one token at one position


@dataclass(frozen=True)
class Known:
    """What a server said of one position."""

    logprobs: dict[int, float]
    """Log-probability of each token with a certain id; the token that was written is among them if it has one."""
    unnamed: float = 0.0
    """Mass of the tokens without a certain id."""
    likeliest_unnamed: bool = False
    """Whether the likeliest token is one of those."""


def known_at(token: ReplyToken, token_id: int, token_bytes: TokenBytes, vocab_rows: int) -> Known:
    """What is known at the position where `token` was written, whose id is certain.

    Raises Unanswered for what is no distribution: values that are no log-probabilities, two of them for one token, or
    a sum above one.
    """
    logprobs = {} if token.logprob is None else {token_id: token.logprob}
    unnamed: list[float] = []
    names_written = False
    for alternative in token.alternatives:
        logprob = alternative.logprob
        if logprob is None:
            raise Unanswered("a likeliest token with an invalid log-probability (not retried)")
        if logprob == -math.inf:
            continue
        its_id = _certain_id(alternative, token_bytes, vocab_rows)
        if its_id is None:
            unnamed.append(logprob)
            continue
        names_written = names_written or its_id == token_id
        if abs(logprobs.setdefault(its_id, logprob) - logprob) > _SAME:
            raise Unanswered(f"two log-probabilities for the token {its_id} at one position (not retried)")
    if not names_written and token.logprob in unnamed:  # the token that was written, whose spelling is not certain
        unnamed.remove(token.logprob)
    mass = sum(math.exp(logprob) for logprob in (*logprobs.values(), *unnamed))
    if mass > _MOST_MASS:
        raise Unanswered(f"likeliest tokens whose probabilities sum to {mass:.3g} (not retried)")
    best = max(logprobs.values(), default=-math.inf)
    return Known(logprobs, sum(math.exp(logprob) for logprob in unnamed), max(unnamed, default=-math.inf) > best)


def encode_likeliest(
    ids: Sequence[int], tokens: Sequence[ReplyToken], token_bytes: TokenBytes, form: SignalFormat, asked: int
) -> tuple[torch.Tensor, AnswerSignal]:
    """The signal of the tokens of an answer up to the first at which nothing is known, and what was not kept.

    `ids`: the answer's tokens as far as their ids are certain. `asked`: tokens asked for at each position; `form` holds
    one more, since the token that was written may not be among the likeliest. Returns [token, bytes_per_token], uint8.
    Raises Unanswered for what is no distribution.
    """
    positions: list[Known] = []
    for token, token_id in zip(tokens, ids, strict=False):
        known = known_at(token, token_id, token_bytes, form.vocab)
        if not known.logprobs:
            break
        positions.append(known)
    kept = [_likeliest(known, written, form.top_k) for known, written in zip(positions, ids, strict=False)]
    rows = [[*row, *[(0, -math.inf)] * (form.top_k - len(row))] for row in kept]
    token_ids = torch.tensor([[entry[0] for entry in row] for row in rows], dtype=torch.long)
    logprobs = torch.tensor([[entry[1] for entry in row] for row in rows], dtype=torch.float64)
    answer = AnswerSignal(
        short=sum(len(token.alternatives) < asked for token in tokens[: len(kept)]),
        unnamed=sum(known.unnamed for known in positions),
        likeliest_unnamed=sum(known.likeliest_unnamed for known in positions),
    )
    shape = len(rows), form.top_k  # an answer of which nothing is known has no rows
    return form.encode_known(token_ids.reshape(shape), logprobs.reshape(shape)), answer


def _likeliest(known: Known, written: int, most: int) -> list[tuple[int, float]]:
    """The likeliest tokens, at most so many, the written one always among them if its probability is known."""
    ranked = sorted(known.logprobs.items(), key=lambda entry: (-entry[1], entry[0]))
    kept = ranked[:most]
    if written in known.logprobs and all(token_id != written for token_id, _ in kept):
        kept[-1] = (written, known.logprobs[written])
    return kept


def _certain_id(alternative: Alternative, token_bytes: TokenBytes, vocab_rows: int) -> int | None:
    """The id that was sent, if its spelling does not contradict it, else the only one with that spelling."""
    token_id = alternative.id
    if token_id is None:
        token_id = token_bytes.unique_id(alternative.text or b"")
    elif not token_bytes.matches(token_id, alternative.text):
        return None
    return token_id if token_id is not None and 0 <= token_id < vocab_rows else None
