"""Which runs may be compared, and on which prompts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.findings.made_up_runs import PROMPTS, Store, pair, row, selected


@pytest.mark.parametrize(
    "change",
    [
        {"train.epochs": 2.0},
        {"target": "t2"},
        {"heldout": "other"},
        {"train_hash": "b"},
        {"train.seed": 5},
        {"measure.top_p": 0.9},
        {"train.eval_every": 7},
        {"train.eval_prompts": 7},
    ],
)
def test_runs_that_differ_in_anything_else_are_not_compared(change: dict[str, Any]):
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42, **change)
    assert store.findings()["white_box"].cells == ()


@pytest.mark.parametrize(
    "change", [{"train.checkpoint_every": 7}, {"train.micro_batch_tokens": 64}, {"capture.batch_size": 3}]
)
def test_what_changes_no_result_does_not_stand_in_the_way(change: dict[str, Any]):
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42, **change)
    assert len(store.findings()["white_box"].cells) == 1


def test_black_box_training_without_a_stored_signal_may_be_compared():
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft", "capture.signal": "none"})
    store.add("kl", 0.42)
    assert len(store.findings()["white_box"].cells) == 1


def test_an_answer_of_another_length_is_left_out():
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42)
    store.tables[0].loc[store.tables[0].prompt_id == "p3", "n_positions"] = 7
    (cell,) = store.findings()["white_box"].cells
    assert cell.absolute.n_prompts == PROMPTS - 1


def test_archived_unfinished_and_uncertified_runs_stay_out_and_are_counted():
    rows = [
        row("good"),
        row("old", archived=True),
        row("bad", certificate=False),
        row("none", certificate=None),
        row("busy", state="running"),
    ]
    runs, left_out = selected(rows)
    assert [run.id for run in runs] == ["good"]
    assert left_out == {"not finished": 1, "archived": 1, "failed or without certificate": 2}


def test_only_the_sums_of_runs_in_a_pair_are_loaded():
    store = Store()
    pair(store, 1, 0.4, 0.42)
    store.add("alone", 0.5, **{"train.loss": "jsd", "prompts.domain": "law"})
    store.findings()
    assert store.asked == ["kl0", "sft0"]


def test_other_text_of_the_same_length_is_left_out_and_reported():
    store = Store()
    pair(store, 1, 0.40, 0.42)
    for table in store.tables:
        table["answer"] = [f"answer {i}" for i in range(PROMPTS)]
    store.tables[0].loc[store.tables[0].prompt_id == "p3", "answer"] = "another"  # of sft0, trained
    (cell,) = store.findings()["white_box"].cells
    assert cell.absolute.n_prompts == PROMPTS - 1
    assert "Left out: 1 prompt" in cell.remark


def test_any_difference_in_the_amount_of_text_is_said_with_the_versions_that_made_it():
    store = Store()
    store.add("sft", 0.40, tokens=7487, steps=19, **{"train.loss": "sft"})
    store.add("kl", 0.42, tokens=7367, steps=19)
    for made, commit in zip(store.rows, ("34f6251df8", "d35f469e60"), strict=True):
        made["provenance"]["source"] = {"commit": commit}
    finding = store.findings()["white_box"]
    assert "7,487 against 7,367 target tokens, by different versions of the code (34f6251 against d35f469)" in (
        finding.cells[0].remark
    )
    assert finding.fairness.startswith("1 of 1 comparisons have a remark on fairness. Most often: The two sides")
    equal = Store()
    equal.add("sft", 0.40, tokens=7487, steps=19, **{"train.loss": "sft"})
    equal.add("kl", 0.42, tokens=7487, steps=19)
    assert equal.findings()["white_box"].fairness == ""
