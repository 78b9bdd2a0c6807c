"""Effects over several cells, seeds and domains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.findings.pooling import Side, effect, seed_mean
from engine.findings.verdicts import SAME
from engine.measure.compare import Sums
from tests.unit.findings.made_up_runs import PROMPTS, Store, pair


def test_domains_count_equally_and_cells_within_them_are_added_up():
    store = Store()
    for domain, sft, kl in (("biology", 0.40, 0.44), ("law", 0.20, 0.20)):
        changes = {"prompts.domain": domain}
        store.add(f"sft-{domain}", sft, heldout=domain, **changes, **{"train.loss": "sft"})
        store.add(f"kl-{domain}", kl, heldout=domain, **changes)
    finding = store.findings()["white_box"]
    domains = finding.headline.by_domain
    assert domains["biology"].relative.value == pytest.approx(0.10, abs=0.01)
    pooled = finding.headline.pooled
    assert pooled.other_rate == pytest.approx((domains["biology"].other_rate + domains["law"].other_rate) / 2)
    assert pooled.relative.value == pytest.approx(0.64 / 0.60 - 1, abs=0.01)
    assert (pooled.n_cells, len(pooled.runs), pooled.absolute.n_prompts) == (2, 4, 2 * PROMPTS)
    assert pooled.absolute.low < pooled.absolute.value < pooled.absolute.high


def test_a_seed_that_one_place_lacks_is_no_seed_of_the_whole():
    store = Store()
    pair(store, 3, 0.40, 0.424)
    for name, rate in (("sft", 0.40), ("kl", 0.424)):
        loss = {"train.loss": "sft"} if name == "sft" else {}
        store.add(f"{name}-law", rate, heldout="law", **{"prompts.domain": "law"}, **loss)
    pooled = store.findings()["white_box"].headline.pooled
    assert len(pooled.by_seed) == 1
    assert pooled.verdict == SAME


def test_one_cell_pooled_is_that_cell():
    store = Store()
    pair(store, 3, 0.400, 0.424)
    finding = store.findings()["white_box"]
    (cell,), pooled = finding.cells, finding.headline.pooled
    assert (pooled.relative, pooled.absolute) == (cell.relative, cell.absolute)


def side(heldout: str, accepted: list[float], positions: float = 50.0) -> Side:
    prompts = pd.Index([f"p{i}" for i in range(len(accepted))])
    return Side(heldout, Sums(prompts, np.array(accepted), np.full(len(accepted), positions)))


def test_more_seeds_in_a_cell_do_not_weigh_more():
    half = [10.0, 20.0, 10.0, 20.0, 10.0, 20.0]
    a, b = side("h", half), side("h", [2 * value for value in half])
    mean = seed_mean([a, a, a])
    assert list(mean.sums.prompts) == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert (list(mean.sums.numerators), list(mean.sums.denominators)) == (half, [50.0] * 6)
    three = effect([[(a, seed_mean([b, b, b]))]])
    assert three == effect([[(a, b)]])
    assert three.relative.value == pytest.approx(1.0)
    assert (three.relative.low, three.relative.high) == pytest.approx((1.0, 1.0))  # the same in every prompt


def test_prompts_of_different_sets_are_drawn_on_their_own():
    accepted = [5.0, 45.0] * 20
    same = effect([[(side("h", accepted), side("h", accepted))]])
    apart = effect([[(side("h", accepted), side("other", accepted))]])
    assert (same.absolute.low, same.absolute.high) == (0, 0)
    assert apart.absolute.low < -0.05 < 0.05 < apart.absolute.high
