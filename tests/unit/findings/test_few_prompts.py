"""An interval of fewer than six prompts is no evidence for or against a claim."""

from __future__ import annotations

import math

import pytest

from engine.findings.missing import missing_study
from engine.findings.verdicts import FEW, REPRODUCED
from engine.findings.words import sentence
from engine.numbers import LEAST_PROMPTS
from tests.unit.findings.made_up_runs import Store, pair, selected


@pytest.mark.parametrize("prompts", [1, 2, LEAST_PROMPTS - 1])
def test_three_seeds_on_too_few_prompts_decide_nothing(prompts):
    store = Store()
    pair(store, 3, 0.400, 0.424, prompts=prompts)
    finding = store.findings()["white_box"]
    assert (finding.verdict, finding.headline.pooled.verdict) == (FEW, FEW)
    assert finding.reason.startswith("too few prompts")
    assert math.isnan(finding.cells[0].absolute.low)
    assert finding.cells[0].absolute.n_prompts == prompts
    assert "[" not in sentence(finding)


def test_from_six_prompts_on_they_do():
    store = Store()
    pair(store, 3, 0.400, 0.424, prompts=LEAST_PROMPTS)
    assert store.findings()["white_box"].verdict == REPRODUCED


def test_evidence_against_a_claim_needs_as_many():
    store = Store()
    pair(store, 3, 0.424, 0.300, prompts=LEAST_PROMPTS - 1)
    assert store.findings()["white_box"].verdict == FEW


def test_the_study_that_would_decide_it_asks_for_prompts_too():
    for prompts, asks in ((4, True), (LEAST_PROMPTS, False)):
        store = Store()
        pair(store, 1, 0.400, 0.424, prompts=prompts)
        study = missing_study(store.findings()["white_box"], selected(store.rows)[0])
        assert study is not None
        assert ("held-out prompts" in study.why) == asks
