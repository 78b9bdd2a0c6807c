"""A server's own count of an answer's tokens, beside what else is known of the answer: the one rule for all readers.

A count that cannot be is not used, and where the count is what is measured the answer is left out. One that is far off
may still be right (a strange tokenizer, tokens that stand for nothing), so it is used, and said. Without the tokenizer
a text gives bounds alone: a token has a byte at least, and hardly ever sixteen on average.
"""

from __future__ import annotations

FAR_OFF = "another count of tokens than the answer has"
"""The note on an answer whose count is far off."""
_TOKENS_WITHOUT_TEXT = 8  # such as an end of turn, which a server counts and does not write
_TOKENS_OF_CALLS = 64  # the same for the marks around calls, and what a parser leaves out of them
_FACTOR, _SLACK = 2, 32  # token counts that differ by less may be another way to split the same text
_MOST_BYTES_A_TOKEN, _SLACK_BYTES = 16, 64


def impossible(counted: int | None, *, has_answer: bool, allowed: int | None) -> str:
    """Why a count cannot be; "" if it can. `allowed`: `max_tokens` of the request."""
    if counted == 0 and has_answer:
        return "a count of 0 tokens beside an answer"
    if counted is not None and allowed is not None and counted > allowed:
        return "a count of more tokens than were asked for"
    return ""


def misses_text(counted: int, size: int, *, has_calls: bool) -> bool:
    """Whether `size` bytes are too few for the counted tokens, so that a part of the answer is missing."""
    return counted > size + _TOKENS_WITHOUT_TEXT + (_TOKENS_OF_CALLS if has_calls else 0)


def far_from_tokens(counted: int | None, tokens: int) -> bool:
    """Whether a count is far from the number of tokens; the end of turn may or may not be counted."""
    if counted is None:
        return False
    few, many = sorted((counted, tokens))
    return many > _FACTOR * few + _SLACK


def far_from_text(counted: int | None, size: int) -> bool:
    """Whether a count is far too small for `size` bytes of text."""
    return counted is not None and size > _MOST_BYTES_A_TOKEN * counted + _SLACK_BYTES
