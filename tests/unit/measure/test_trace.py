"""Rates, histograms and tables of a trace written by hand; the expected numbers were worked out on paper."""

import math

import pytest

from engine.decode.counts import count
from engine.decode.events import Alternative, Fate, Round, Token
from engine.measure.trace import acceptance_by_slot, accepted_lengths, prompt_rows, round_rows, token_rows
from tests.conftest import byte_tokenizer

FATES = {"A": Fate.ACCEPTED, "R": Fate.REJECTED, "D": Fate.DISCARDED, "C": Fate.CORRECTED, "B": Fate.BONUS}


def round_of(row, number, fates, reason=None, ids=None):
    ids = ids or range(10, 10 + len(fates))
    tokens = tuple(Token(i, FATES[fate], 0) for i, fate in zip(ids, fates, strict=True))
    gamma = sum(fate in "ARD" for fate in fates)
    return Round(row, number, gamma, tokens, 0.1, 0.2, 0.3, finish_reason=reason)


TRACE = [
    round_of(0, 0, "ARDC"),
    round_of(1, 0, "AAB"),  # adaptive: two proposed
    round_of(0, 1, "AAAB"),
    round_of(1, 1, "B", "length"),  # no room for a proposal
    round_of(0, 2, "RDDC"),
    round_of(0, 3, "ADD", "stop"),  # the end of the answer was accepted
]


def test_counts():
    counts = count(TRACE)
    assert (counts.rounds, counts.drafted, counts.emitted) == (6, 14, 12)
    assert (counts.accepted, counts.rejected, counts.discarded) == (7, 2, 5)
    assert count(iter(TRACE)) == counts


def test_rates():
    assert count(TRACE).rates() == pytest.approx(
        {"per_proposed": 7 / 14, "per_examined": 7 / 9, "per_emitted": 7 / 12, "tau": 12 / 6}
    )


def test_what_other_systems_would_print():
    empty = sum(not item.drafted for item in TRACE)  # no draft of vLLM's, which counts those with a proposal
    assert count(TRACE).as_others_report(empty) == pytest.approx(
        {
            "vllm_mean_acceptance_length": 1 + 7 / 5,
            "vllm_draft_acceptance_rate": 7 / 14,
            "sglang_accept_length": 12 / 6,
            "spec_bench_mean_accepted_tokens": 12 / 6,
            "llama_cpp_accept": 7 / 14,
        }
    )


def test_per_emitted_is_one_less_rounds_per_token_where_every_round_ends_with_the_targets_token():
    counts = count(TRACE[:5])
    assert counts.rates()["per_emitted"] == pytest.approx(1 - counts.rounds / counts.emitted)


def test_nothing_drafted_has_no_rate():
    rates = count([TRACE[3]]).rates()
    assert math.isnan(rates["per_proposed"])
    assert math.isnan(rates["per_examined"])
    assert (rates["per_emitted"], rates["tau"]) == (0, 1)
    assert math.isnan(count([]).rates()["tau"])


def test_accepted_lengths_leave_out_rounds_without_a_proposal():
    assert accepted_lengths(TRACE, 3) == [1, 2, 1, 1]
    assert accepted_lengths(TRACE, 4) == [1, 2, 1, 1, 0]


def test_acceptance_at_each_place():
    first, second, third = acceptance_by_slot(TRACE, 3)
    # Judged in five rounds, refused in one.
    assert first.document() == pytest.approx({"slot": 1, "joint": 4 / 5, "conditional": 4 / 5, "n": 5})
    # Judged in AR, AA and AAA; not in R, which counts as lost jointly, nor in the round that ended before it.
    assert second.document() == pytest.approx({"slot": 2, "joint": 2 / 4, "conditional": 2 / 3, "n": 3})
    # AA proposed two only: it says nothing of the third.
    assert third.document() == pytest.approx({"slot": 3, "joint": 1 / 3, "conditional": 1.0, "n": 1})
    assert math.isnan(acceptance_by_slot(TRACE, 4)[3].joint)


def test_prompt_rows_add_up_by_prompt():
    table = prompt_rows(TRACE, ["x", "y"])
    assert table.to_dict("records") == [
        {"prompt_id": "x", "rounds": 4, "drafted": 12, "accepted": 5, "rejected": 2, "discarded": 5, "emitted": 8},
        {"prompt_id": "y", "rounds": 2, "drafted": 2, "accepted": 2, "rejected": 0, "discarded": 0, "emitted": 4},
    ]


def test_round_rows():
    table = round_rows(TRACE, ["x", "y"])
    assert list(table.columns) == [
        "prompt_id",
        "round",
        "num_draft_tokens",
        "accepted",
        "emitted",
        "draft_s",
        "verify_s",
        "overhead_s",
        "finish_reason",
    ]
    assert table["finish_reason"].dropna().to_dict() == {3: "length", 5: "stop"}
    assert table.iloc[1].drop("finish_reason").to_dict() == {
        "prompt_id": "y",
        "round": 0,
        "num_draft_tokens": 2,
        "accepted": 2,
        "emitted": 3,
        "draft_s": 0.1,
        "verify_s": 0.2,
        "overhead_s": 0.3,
    }
    assert table["num_draft_tokens"].tolist() == [3, 2, 3, 0, 3, 3]


def test_token_rows_show_each_answers_text_and_what_the_refused_would_have_been():
    tokenizer = byte_tokenizer()
    one, two, three = tokenizer.encode("你", add_special_tokens=False)
    x, y = tokenizer.encode("xy", add_special_tokens=False)
    rounds = [
        round_of(0, 0, "ARDC", ids=[one, x, y, two]),  # the character is broken by what was refused, and goes on
        round_of(1, 0, "AB", ids=[x, one]),
        round_of(0, 1, "AAB", "stop", ids=[three, y, 1]),
        round_of(1, 1, "RC", ids=[two, y]),
    ]
    table = token_rows(rounds, ["p", "q"], tokenizer)
    assert table["text"].tolist() == ["", "\ufffdx", "y", "", "x", "", "你", "y", "<|im_end|>", "", "\ufffdy"]
    assert table["fate"].tolist() == [str(FATES[f]) for f in "ARDCABAABRC"]
    assert table["prompt_id"].tolist() == list("ppppqqpppqq")
    assert table["slot"].tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1]
    kept = table[(table.prompt_id == "p") & table.fate.isin(["accepted", "corrected", "bonus"])]
    assert "".join(kept["text"]) == "你y<|im_end|>"


def test_token_rows_carry_the_numbers():
    others = (Alternative(5, 0.25, 0.5), Alternative(9, 0.5, 0.0))
    token = Token(5, Fate.ACCEPTED, 7, 0.25, 0.5, 0.125, 0.75, others)
    bonus = Token(6, Fate.BONUS, 8, 0.5, None, 0.25)
    row, last = token_rows([Round(0, 2, 1, (token, bonus), 0, 0, 0)], ["p"], byte_tokenizer()).to_dict("records")
    assert (row["round"], row["position"], row["token_id"]) == (2, 7, 5)
    assert (row["p"], row["q"], row["u"], row["overlap"]) == (0.25, 0.5, 0.125, 0.75)
    assert math.isnan(last["q"])
    assert math.isnan(last["overlap"])
    assert row["alt_ids"].tolist() == [5, 9]
    assert row["alt_texts"] == [byte_tokenizer().decode([i]) for i in (5, 9)]
    assert (row["alt_p"].tolist(), row["alt_q"].tolist()) == ([0.25, 0.5], [0.5, 0.0])
    assert row["alt_p"].dtype == "float32"
    assert len(last["alt_ids"]) == 0
