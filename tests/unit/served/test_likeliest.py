"""What a server sent of one position: kept exactly where it is certain, in the bucket where it is not, or refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from engine.capture.signal import CompactSignal, SignalFormat
from engine.served.likeliest import encode_likeliest, known_at
from engine.served.logprobs import TokenBytes
from engine.served.replies import Unanswered
from engine.served.reply_tokens import ReplyToken, read_reply_tokens
from tests.conftest import byte_tokenizer

VOCAB = 258
A, B, C = (byte_tokenizer().convert_tokens_to_ids(letter) for letter in "abc")
SPELLING = TokenBytes(byte_tokenizer())


def token(written: str, logprob: Any, *others: tuple[Any, Any], **more: Any) -> ReplyToken:
    """A token as a server sends it, with (name, logprob) of the likeliest ones; a name is text, or an id as vLLM's."""
    tops = [
        {"token": f"token_id:{name}" if isinstance(name, int) else name, "logprob": value} for name, value in others
    ]
    entry = {"token": written, "bytes": list(written.encode()), "logprob": logprob, "top_logprobs": tops, **more}
    return read_reply_tokens([entry])[0]


def encoded(*tokens: ReplyToken, ids: list[int], asked: int = 2) -> tuple[CompactSignal, Any]:
    form = SignalFormat("compact", 0, VOCAB, asked + 1, has_unused=True)
    raw, left_out = encode_likeliest(ids, tokens, SPELLING, form, asked)
    signal = form.decode(raw, None)
    assert isinstance(signal, CompactSignal)
    return signal, left_out


def test_the_token_that_was_written_is_kept_beside_the_likeliest_and_the_rest_is_the_tail():
    signal, left_out = encoded(token("c", math.log(0.05), (A, math.log(0.6)), (B, math.log(0.3))), ids=[C])
    assert signal.token_ids.tolist() == [[A, B, C]]
    assert signal.logprobs.exp()[0].tolist() == pytest.approx([0.6, 0.3, 0.05], abs=1e-3)
    assert float(signal.tail_mass) == pytest.approx(0.05, abs=1e-3)
    assert (left_out.short, left_out.unnamed, left_out.likeliest_unnamed) == (0, 0.0, 0)


def test_an_entry_that_is_not_used_has_no_id_and_no_mass():
    signal, left_out = encoded(token("a", math.log(0.6), (A, math.log(0.6)), (B, -9999.0)), ids=[A])
    assert signal.token_ids.tolist() == [[A, VOCAB, VOCAB]]
    assert float(signal.tail_mass) == pytest.approx(0.4, abs=1e-3)
    target, draft, columns = signal.on_support(torch.randn(1, VOCAB).log_softmax(-1))
    assert target.exp().sum() == pytest.approx(1, abs=1e-6)
    assert draft.exp().sum() == pytest.approx(1, abs=1e-5)
    assert columns.tolist() == [[A, VOCAB, VOCAB]]
    assert left_out.short == 0  # two were sent


def test_a_likeliest_token_without_a_certain_id_is_in_the_tail_with_its_mass():
    half = {"token": "\ufffd", "bytes": list("\ufffd".encode()), "logprob": math.log(0.5)}
    known = known_at(
        read_reply_tokens([{"token": "a", "logprob": math.log(0.3), "top_logprobs": [half]}])[0], A, SPELLING, VOCAB
    )
    assert known.logprobs == {A: pytest.approx(math.log(0.3))}
    assert known.unnamed == pytest.approx(0.5)
    assert known.likeliest_unnamed


def test_the_written_token_among_the_likeliest_counts_once_though_its_spelling_is_not_certain():
    spelt = {"token": "\ufffd", "logprob": math.log(0.5)}
    entry = {"token": "\ufffd", "id": 200, "logprob": math.log(0.5), "top_logprobs": [spelt]}
    known = known_at(read_reply_tokens([entry])[0], 200, SPELLING, VOCAB)
    assert known.logprobs == {200: pytest.approx(math.log(0.5))}
    assert known.unnamed == 0
    assert not known.likeliest_unnamed


@pytest.mark.parametrize("unknown", ["ab", VOCAB, VOCAB + 5, ""])
def test_a_name_that_is_no_token_of_the_model_at_hand_goes_into_the_tail(unknown: Any):
    known = known_at(token("a", math.log(0.3), (unknown, math.log(0.2))), A, SPELLING, VOCAB)
    assert list(known.logprobs) == [A]
    assert known.unnamed == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([(A, math.log(0.6)), (B, math.log(0.6))], "sum to 1.2"),
        ([(A, 17.5)], "invalid log-probability"),
        ([(A, "-0.5")], "invalid log-probability"),
        ([(A, None)], "invalid log-probability"),
        ([(A, True)], "invalid log-probability"),
        ([(A, math.nan)], "invalid log-probability"),
        ([(B, -1.0), (B, -2.0)], "two log-probabilities"),
        ([(A, -3.0)], "two log-probabilities"),
    ],
)
def test_what_is_no_distribution_is_refused(others: list[tuple[Any, Any]], why: str):
    with pytest.raises(Unanswered, match=why):
        known_at(token("a", math.log(0.6), *others), A, SPELLING, VOCAB)


def test_probabilities_rounded_by_the_server_may_sum_to_a_little_more_than_one():
    signal, _ = encoded(token("a", -0.69, (A, -0.69), (B, -0.69)), ids=[A])
    assert float(signal.tail_mass) == 0
    target, _, _ = signal.on_support(torch.zeros(1, VOCAB).log_softmax(-1))
    assert target.exp().sum() == pytest.approx(1, abs=1e-6)


def test_an_answer_is_kept_up_to_the_first_position_of_which_nothing_is_known():
    good, bad = token("a", -0.5, (A, -0.5)), token("a", None)
    signal, left_out = encoded(good, good, bad, good, ids=[A, A, A, A])
    assert len(signal.tail_mass) == 2
    assert left_out.short == 2


def test_of_more_tokens_than_asked_for_the_likeliest_stay_and_the_written_one():
    listed = [(A, math.log(0.4)), (B, math.log(0.3)), (C, math.log(0.1)), (9, math.log(0.05))]
    signal, _ = encoded(token("z", math.log(0.01), *listed), ids=[120], asked=2)
    assert signal.token_ids.tolist() == [[A, B, 120]]
    assert float(signal.tail_mass) == pytest.approx(0.29, abs=2e-3)
