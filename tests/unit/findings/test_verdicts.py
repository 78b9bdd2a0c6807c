"""Which verdict follows from a measured effect."""

from __future__ import annotations

import math

import pytest

from engine.findings.claims import BEST_LOSS, CLAIMS, GENERIC, SCENARIO, SUPERVISION
from engine.findings.evaluate import evaluate
from engine.findings.verdicts import BETTER, FEW, NOT, REPRODUCED, SAME, judge_cell, overall
from engine.findings.words import sentence
from engine.records.interval import Interval
from tests.unit.findings.made_up_runs import PROMPTS, Store, pair


def test_without_runs_nothing_is_concluded():
    found = evaluate([], lambda _: pytest.fail("no sums are needed"))
    assert [finding.verdict for finding in found] == [FEW] * len(CLAIMS)
    assert "sft (black box)" in next(f for f in found if f.claim is SUPERVISION).reason


def test_three_seeds_in_the_stated_range_reproduce_the_claim():
    store = Store()
    pair(store, 3, 0.400, 0.424)
    finding = store.findings()["white_box"]
    (cell,) = finding.cells
    assert finding.verdict == cell.verdict == REPRODUCED
    assert cell.relative.value == pytest.approx(0.06, abs=0.01)
    assert cell.absolute.value == pytest.approx(0.024, abs=0.004)
    assert cell.absolute.low < 0.024 < cell.absolute.high
    assert cell.absolute.n_prompts == PROMPTS
    assert sorted(cell.runs) == ["kl0", "kl1", "kl2", "sft0", "sft1", "sft2"]


def test_pairing_takes_out_what_makes_a_prompt_hard():
    """The prompts differ by .04 and the drafts by .024: unpaired, the interval would hold zero."""
    store = Store()
    pair(store, 3, 0.400, 0.424)
    (cell,) = store.findings()["white_box"].cells
    assert cell.absolute.high - cell.absolute.low < 0.005


def test_one_seed_shows_the_direction_and_no_more():
    store = Store()
    pair(store, 1, 0.40, 0.424)
    finding = store.findings()["white_box"]
    assert finding.verdict == SAME
    assert "3 are needed" in finding.cells[0].reason


def test_evidence_the_other_way_counts_from_the_first_seed_and_says_how_many_there_are():
    for seeds in (1, 3):
        store = Store()
        pair(store, seeds, 0.424, 0.40)
        finding = store.findings()["white_box"]
        assert finding.verdict == NOT
        assert finding.cells[0].reason.startswith(f"{seeds} seed")


def test_a_size_outside_the_stated_range_is_only_the_same_direction():
    store = Store()
    pair(store, 3, 0.100, 0.117)  # +17% relative, +1.7% absolute: one above the range, one below it
    (cell,) = store.findings()["white_box"].cells
    assert cell.verdict == SAME
    assert "outside +2% to +10%, relative above it and absolute below it" in cell.reason


def test_more_than_the_stated_range_whatever_percent_means_is_better_than_the_paper_says():
    store = Store()
    pair(store, 3, 0.30, 0.45)
    finding = store.findings()["white_box"]
    assert finding.verdict == BETTER
    assert "better than the paper says (+2% to +10%)" in sentence(finding)


def test_synthetic_queries_as_good_as_historical_ones_are_better_than_the_paper_says():
    """The paper's 80% to 93% is a loss of 7% to 20%; no loss at all is no evidence against it."""
    none = Interval(0.001, -0.01, 0.012, 40)
    assert judge_cell(SCENARIO, none, none, [0.0, 0.001, 0.002])[0] == BETTER
    few = judge_cell(SCENARIO, none, none, [0.001])
    assert few[0] == SAME
    assert "so far" in few[1]


def test_a_generic_draft_that_gains_on_a_domain_is_no_better_than_the_paper_says():
    gain = Interval(0.2, 0.1, 0.3, 40)
    assert judge_cell(GENERIC, gain, gain, [0.2] * 3)[0] == NOT


def test_a_claim_is_better_than_the_paper_says_only_where_every_comparison_is():
    assert overall(SUPERVISION, [(BETTER, ""), (BETTER, "")], 2)[0] == BETTER
    assert overall(SUPERVISION, [(BETTER, ""), (REPRODUCED, "")], 2)[0] == REPRODUCED
    assert overall(SUPERVISION, [(BETTER, ""), (FEW, "")], 2)[0] == SAME


def test_a_seed_that_disagrees_is_not_averaged_away():
    interval = Interval(0.02, 0.01, 0.03, 40)
    assert judge_cell(SUPERVISION, interval, interval, [0.03, 0.03, 0.03])[0] == REPRODUCED
    assert judge_cell(SUPERVISION, interval, interval, [0.05, 0.05, -0.01])[0] == NOT


def test_an_absolute_reading_counts_too_and_is_named():
    relative, absolute = Interval(0.5, 0.4, 0.6, 40), Interval(0.05, 0.04, 0.06, 40)
    verdict, reason = judge_cell(SUPERVISION, relative, absolute, [0.05] * 3)
    assert verdict == REPRODUCED
    assert "the absolute difference" in reason
    assert "relative" not in reason


def test_no_interval_no_verdict():
    nothing = Interval(0.05, math.nan, math.nan, 1)
    assert judge_cell(SUPERVISION, nothing, nothing, [0.05] * 3)[0] == FEW


def test_each_temperature_is_a_cell_and_the_weakest_decides():
    store = Store()
    for temperature, kl in ((0.0, 0.424), (1.0, 0.38)):
        for seed in range(3):
            for name, rate in (("sft", 0.40), ("forward_kl", kl)):
                store.add(f"{name}{seed}", rate, temperature=temperature, **{"train.loss": name, "train.seed": seed})
    store.rows = store.rows[:6]  # one run each, measured at both
    finding = store.findings()["white_box"]
    assert [(cell.temperature, cell.verdict) for cell in finding.cells] == [(0.0, REPRODUCED), (1.0, NOT)]
    assert finding.verdict == NOT


def test_the_weakest_decided_cell_is_the_verdict():
    assert overall(BEST_LOSS, [(REPRODUCED, ""), (NOT, ""), (FEW, "")], 3)[0] == NOT
    assert overall(BEST_LOSS, [(REPRODUCED, ""), (REPRODUCED, "")], 2)[0] == REPRODUCED


def test_an_undecided_cell_keeps_a_claim_from_being_reproduced():
    verdict, reason = overall(SUPERVISION, [(REPRODUCED, "")] + [(FEW, "")] * 19, 1)
    assert (verdict, reason[:7]) == (SAME, "1 of 20")


@pytest.mark.parametrize(("middle", "last", "verdict"), [(0.43, FEW, SAME), (0.39, NOT, NOT)])
def test_one_seed_the_other_way_counts_unless_it_may_be_chance(middle: float, last: str, verdict: str):
    store = Store()
    for n, kl in ((75, 0.43), (150, middle), (300, 0.39)):
        shared = {"n_train": n, "train_hash": str(n)}
        store.add(f"sft{n}", 0.40, **shared, **{"train.loss": "sft"})
        store.add(f"kl{n}", kl, **shared)
    finding = store.findings()["white_box"]
    verdicts = {cell.where["queries"]: (cell.verdict, cell.reason) for cell in finding.cells}
    assert verdicts["300"][0] == last
    assert "the other way" in verdicts["300"][1]
    assert finding.verdict == verdict


def test_the_ratio_of_claim_four_is_not_read_as_points():
    relative, absolute = Interval(-0.4, -0.5, -0.3, 40), Interval(-0.1, -0.12, -0.08, 40)
    verdict, reason = judge_cell(SCENARIO, relative, absolute, [-0.1] * 3)
    assert verdict == SAME
    assert reason.endswith("-7%, relative below it")
