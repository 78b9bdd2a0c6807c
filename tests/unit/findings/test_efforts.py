"""Kinds of effort at which offline and online training are compared, and what is remarked of unequal training."""

from __future__ import annotations

import pytest

from engine.findings.efforts import OWN, STEPS, TOKENS, efforts_of
from engine.findings.runs import facts_of
from engine.findings.verdicts import FEW, NOT, REPRODUCED
from engine.records.provenance import Provenance
from tests.unit.findings.made_up_runs import STREAM, Store, pair, row, selected, streams_and_epochs


def test_an_online_run_is_compared_at_three_kinds_of_effort_each_with_its_own_run():
    store = Store()
    streams_and_epochs(store)
    finding = store.findings()["offline"]
    assert [outcome.effort for outcome in finding.outcomes] == [OWN, TOKENS, STEPS]
    runs = [[run for cell in outcome.cells for run in cell.runs] for outcome in finding.outcomes]
    assert runs == [["on300-0", "own300-0"], ["on300-0", "tokens300-0"], ["on300-0", "steps300-0"]]
    own, tokens, steps = finding.outcomes
    assert own.pooled.relative.value == pytest.approx(0.15, abs=0.02)
    assert tokens.pooled.relative.value == pytest.approx(0.0125, abs=0.01)
    assert finding.verdict == own.verdict
    assert "6,000 target tokens" in own.cells[0].remark
    assert "target tokens" not in tokens.cells[0].remark
    assert steps.verdict != REPRODUCED


def test_the_headline_is_at_own_schedule_even_where_equal_effort_says_otherwise():
    store = Store()
    streams_and_epochs(store, seeds=3)
    for table in store.tables:
        if table.run_id.iloc[0].startswith(("tokens", "steps")):
            table["exact_sum"] -= 5  # offline loses once both saw as much
    finding = store.findings()["offline"]
    assert [outcome.verdict for outcome in finding.outcomes] == [REPRODUCED, NOT, NOT]
    assert finding.verdict == REPRODUCED


def test_one_run_may_be_equal_in_both_and_counts_for_both():
    store = Store()
    store.add("on", 0.40, tokens=1000, steps=75, **STREAM)
    store.add("twin", 0.42, tokens=1000, steps=75)
    finding = store.findings()["offline"]
    assert [len(outcome.cells) for outcome in finding.outcomes] == [0, 1, 1]
    assert finding.verdict == FEW


@pytest.mark.parametrize(("tokens", "kind"), [(1019, TOKENS), (981, TOKENS), (1030, OWN), (970, OWN)])
def test_equal_means_within_two_percent(tokens: int, kind: str):
    stream, offline = (
        selected([r])[0][0] for r in (row("on", tokens=1000, steps=10, **STREAM), row("off", tokens=tokens))
    )
    assert efforts_of(stream, offline) == {kind}


def test_an_unrelated_stream_as_long_as_offline_s_own_schedule_changes_nothing():
    store = Store()
    store.add("off", 0.46, tokens=6000, steps=75)
    store.add("sft", 0.40, tokens=6000, steps=75, **{"train.loss": "sft"})
    store.add("on", 0.40, tokens=1000, steps=50, **STREAM)
    before = store.findings()
    store.add("stray", 0.30, tokens=1000, steps=75, **{"train.loss": "sft"}, **STREAM)
    after = store.findings()
    own = [cell.runs for cell in after["offline"].outcomes[0].cells]
    assert ["on", "off"] in own
    assert before["white_box"].cells[0].runs == after["white_box"].cells[0].runs
    store.add("other", 0.30, tokens=1000, steps=75, **STREAM)  # of its loss, but nothing longer was trained
    assert ["on", "off"] in [cell.runs for cell in store.findings()["offline"].outcomes[0].cells]


def test_the_number_of_evaluations_that_the_best_was_chosen_from_is_reported():
    store = Store()
    store.add("on", 0.40, tokens=1000, steps=50, **{"train.eval_every": 15}, **STREAM)
    store.add("off", 0.46, tokens=6000, steps=75, **{"train.eval_every": 15})
    (cell,) = store.findings()["offline"].outcomes[0].cells
    assert "5 against 6 evaluations" in cell.remark


def test_weights_that_were_chosen_at_other_temperatures_are_reported():
    for watched_at, remark in (
        ((0, 1), "The weights were chosen by acceptance at T = 0 against T = 0 and 1."),
        ((0,), ""),
    ):
        store = Store()
        store.add("sft", 0.40, watched_at=(0,), **{"train.loss": "sft"})
        store.add("kl", 0.46, watched_at=watched_at)
        (cell,) = store.findings()["white_box"].cells
        assert cell.remark == remark


def test_what_a_stream_does_not_use_makes_no_other_schedule():
    values = [row("on", **STREAM, **changes)["config"] for changes in ({}, {"train.max_steps": 9}, {"train.epochs": 2})]
    assert len({str(facts_of(config, Provenance())) for config in values}) == 1


def test_one_epoch_is_one_pass_though_the_answers_are_others():
    stream, once = (
        selected([r])[0][0]
        for r in (row("on", tokens=1000, steps=10, **STREAM), row("off", tokens=1060, **{"train.epochs": 1.0}))
    )
    assert efforts_of(stream, once) == {TOKENS}


def test_of_several_schedules_the_one_most_runs_have_is_offline_s_own():
    store = Store()
    for seed in range(2):
        store.add(f"odd{seed}", 0.50, tokens=9000, steps=900, **{"train.epochs": 24.0, "train.seed": seed})
        store.add(f"on{seed}", 0.40, tokens=1000, steps=75, **{"train.seed": seed}, **STREAM)
        store.add(f"usual{seed}", 0.45, tokens=6000, steps=225, **{"train.seed": seed})
    store.add("usual-tvd", 0.4, tokens=6000, steps=225, **{"train.loss": "tvd"})
    (cell,) = store.findings()["offline"].outcomes[0].cells
    assert cell.runs == ["on0", "usual0", "on1", "usual1"]


def test_two_streams_of_other_settings_are_two_places_of_which_the_usual_counts():
    store = Store()
    streams_and_epochs(store, seeds=2)
    online = row("x")["config"]["train"]["online"] | {"update_interval": 50}
    store.add("slow", 0.30, tokens=1000, steps=6, train_hash="300", **{"train.online": online}, **STREAM)
    cells = store.findings()["offline"].outcomes[0].cells
    assert [(cell.counts, "slow" in cell.runs) for cell in cells] == [(True, False), (False, True)]
    assert "train.online.update_interval 50 instead of 8" in cells[1].remark


def test_runs_cut_to_a_stream_s_effort_do_not_speak_in_other_claims():
    store = Store()
    for n in (75, 300):
        streams_and_epochs(store, n=n)
        shared = {"n_train": n, "train_hash": str(n), "train.loss": "sft"}
        store.add(f"sft{n}", 0.45, tokens=6000, steps=225, **shared)
        store.add(f"sft-once{n}", 0.50, tokens=1010, steps=38, **shared, **{"train.epochs": 1.0})
    found = store.findings()
    cut = [cell for cell in found["white_box"].cells if "tokens300-0" in cell.runs]
    assert [cell.counts for cell in cut] == [False]
    assert found["white_box"].verdict != NOT  # as the cut pair alone would have it
    counted = [cell.runs for cell in found["size"].cells if cell.counts and cell.where["train.mode"] == "offline"]
    assert sorted(counted) == [["own75-0", "own300-0"], ["sft75", "sft300"]]
    assert not any({"steps75-0", "steps300-0"} & set(cell.runs) for cell in found["size"].cells if cell.counts)


def test_more_queries_that_were_more_training_are_remarked():
    store = Store()
    store.add("few", 0.30, n_train=75, train_hash="75", tokens=100, steps=10)
    store.add("many", 0.42, n_train=300, train_hash="300", tokens=400, steps=40)
    (cell,) = store.findings()["size"].cells
    assert (
        cell.remark
        == "More queries were more training too: 10 against 40 optimiser steps, 100 against 400 target tokens. "
        "The best weights of 2 against 3 evaluations during training were measured."
    )


def test_the_lead_is_reported_at_each_kind_of_effort():
    store = Store()
    for n, online in ((75, 0.40), (300, 0.38)):
        streams_and_epochs(store, seeds=3, n=n, online=online)
    lead = store.findings()["lead"]
    assert [len(outcome.cells) for outcome in lead.outcomes] == [1, 1, 1]
    assert lead.headline.pooled.absolute.value == pytest.approx(0.02, abs=0.005)
    assert lead.verdict == REPRODUCED


def test_a_draft_that_kept_its_first_weights_is_remarked():
    store = Store()
    pair(store, 1, 0.40, 0.42)
    store.rows[0]["training"]["best_step"] = 0
    (cell,) = store.findings()["white_box"].cells
    assert cell.remark.startswith("1 of 2 drafts is as before training")
