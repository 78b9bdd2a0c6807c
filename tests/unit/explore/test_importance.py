"""Importance of settings on runs whose effects are known: the share, its interval, and what cannot be decided."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from engine.explore.importance import LARGE, Importance, explained, importance


def grid(seeds: int = 4, noise: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """A full grid of loss x size x seed: the loss moves acceptance by 0.2, the size by 0.1, the seed by nothing."""
    rng = np.random.default_rng(seed)
    rows = [
        {"loss": loss, "size": size, "seed": number, "exact": 0.3 + 0.2 * (loss == "kl") + 0.1 * (size == 200)}
        for loss, size, number in itertools.product(("kl", "tvd"), (50, 200), range(seeds))
    ]
    table = pd.DataFrame(rows)
    return table.assign(exact=table.exact + rng.normal(0, noise, len(table)))


def by_name(table: pd.DataFrame, *settings: str) -> dict[str, Importance]:
    return {result.names[0]: result for result in importance(table, "exact", settings)}


def test_a_setting_explains_its_share_and_a_seed_nothing():
    results = by_name(grid(seeds=12), "loss", "size", "seed")
    noise, loss, size = 0.05**2, 0.1**2, 0.05**2  # variances between the runs
    for name, share in (("loss", loss), ("size", size)):
        expected = share / (noise + loss + size)
        assert results[name].alone.low < expected < results[name].alone.high
        assert results[name].alone.value == pytest.approx(expected, abs=0.12)
        assert results[name].verdict == "large effect"
    assert results["loss"].difference == pytest.approx(0.2, abs=0.03)
    assert results["size"].difference == pytest.approx(0.1, abs=0.03)
    assert results["seed"].alone.low == 0
    assert results["seed"].verdict == "no effect seen"
    assert list(results) == ["loss", "size", "seed"], "the most important comes first"


def test_an_effect_that_is_sure_and_explains_little_is_a_small_one():
    table = grid(seeds=200, noise=0.01).assign(half=lambda t: t.seed % 2)
    table["exact"] += 0.02 * table.half
    results = by_name(table, "loss", "size", "half")
    assert results["half"].alone.value < LARGE < results["size"].alone.value
    assert [results[name].verdict for name in ("loss", "size", "half")] == ["large effect"] * 2 + ["small effect"]
    assert results["half"].difference == pytest.approx(0.02, abs=0.003), "in acceptance, not as a share"


def test_settings_that_only_change_together_are_one():
    table = grid().assign(steps=lambda t: t["size"] * 3)
    results = by_name(table, "loss", "size", "steps")
    assert results["size"].names == ("size", "steps")
    assert "steps" not in results


def test_a_setting_that_never_changes_alone_is_not_decided():
    table = grid(seeds=12)
    table["family"] = table.loss.map({"kl": "white", "tvd": "black"})
    table.loc[table.index % 2 == 0, "loss"] += " 2"  # four losses in two families
    results = by_name(table, "loss", "family", "size")
    assert results["family"].verdict == "cannot be told apart"
    assert results["family"].why == "it changes only together with loss"
    assert np.isnan(results["family"].beyond)
    assert results["size"].verdict == "large effect", "others are decided all the same"


def test_an_effect_that_may_be_anothers_is_not_decided():
    rng = np.random.default_rng(1)
    size = np.repeat([0, 1], 20)
    steps = size.copy()
    steps[[0, 20]] = 1 - steps[[0, 20]]  # two runs of forty tell them apart
    table = pd.DataFrame({"size": size, "steps": steps, "exact": 0.25 * (size + steps) + rng.normal(0, 0.3, 40)})
    results = by_name(table, "size", "steps")
    for name, other in (("size", "steps"), ("steps", "size")):
        assert results[name].alone.low > 0
        assert (results[name].verdict, results[name].why) == (
            "cannot be told apart",
            f"the runs do not tell its effect from that of {other}",
        )


def test_more_settings_than_runs_decide_nothing():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 2, (5, 6)), columns=list("abcdef")).assign(exact=rng.normal(size=5))
    assert {result.verdict for result in importance(table, "exact", list("abcdef"))} == {"cannot be told apart"}


def test_many_numbers_stand_in_ranges_and_a_missing_value_is_one():
    rate = np.linspace(1e-4, 1e-3, 40)
    table = pd.DataFrame({"rate": rate, "cap": [None] * 20 + [50.0] * 20, "exact": rate * 100})
    results = by_name(table, "rate", "cap")
    assert (results["rate"].ranges, results["rate"].levels) == (True, 4)
    assert results["rate"].alone.value > 0.9
    assert results["cap"].levels == 2


def test_nothing_is_said_of_too_few_runs_or_equal_ones():
    table = grid()
    assert importance(table.head(2), "exact", ["loss"]) == []
    assert importance(table.assign(exact=0.4), "exact", ["loss"]) == []
    assert importance(table.assign(exact=np.nan), "exact", ["loss"]) == []
    assert importance(table, "exact", []) == []


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "levels", "share"), [(24, 3, 0.3), (60, 6, 0.3), (24, 3, 0.0), (60, 3, 0.8)])
def test_the_interval_holds_the_true_share_nineteen_times_in_twenty(runs: int, levels: int, share: float):
    rng = np.random.default_rng(5)
    codes = np.arange(runs) % levels
    means = np.linspace(-1, 1, levels)[codes]
    means *= np.sqrt(share / (1 - share) / means.var())
    tries = 400
    held = 0
    for _ in range(tries):
        values = means + rng.normal(size=runs)
        inside = sum(((values[codes == c] - values[codes == c].mean()) ** 2).sum() for c in range(levels))
        interval = explained(1 - inside / ((values - values.mean()) ** 2).sum(), runs, levels)
        held += interval.low <= share <= interval.high
    assert 0.92 <= held / tries <= 1.0, "three standard errors below 95%"
