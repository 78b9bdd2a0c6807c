"""Intervals over very many requests, and over totals alone, are those of the requests themselves."""

from __future__ import annotations

import numpy as np
import pytest

from engine.deploy.figures import ratio_over_requests
from engine.measure.statistics import bootstrap_ratio


def test_of_few_requests_each_is_resampled():
    tops, bottoms = [3.0, 1.0, 4.0, 1.0, 5.0], [9.0, 2.0, 6.0, 5.0, 8.0]
    assert ratio_over_requests(tops, bottoms) == bootstrap_ratio(tops, bottoms)


@pytest.mark.slow
def test_of_many_requests_groups_give_the_same_interval():
    rng = np.random.default_rng(0)
    bottoms = rng.integers(10, 100, 5_500).astype(float)
    tops = rng.binomial(bottoms.astype(int), 0.3).astype(float)
    grouped, each = ratio_over_requests(list(tops), list(bottoms)), bootstrap_ratio(tops, bottoms)
    assert (grouped.value, grouped.n_prompts) == (pytest.approx(each.value, abs=1e-12), 5_500)
    assert grouped.high - grouped.low == pytest.approx(each.high - each.low, rel=0.1)
