"""Slices of a rate: they add up to the whole, rank by what they hold, and say when they are too small."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.errors import DraftbenchError
from engine.measure.definitions import RATES, Rate
from engine.measure.statistics import bootstrap_ratio
from engine.paths import run_id_of
from engine.slices.slices import FEW_PROMPTS, FEW_TOKENS, differences, is_few, sliced
from engine.slices.tokens import _lacks

PROMPTS, TOKENS = 20, 30


def tokens(easy: float = 0.9, hard: float = 0.3, seed: int = 0) -> pd.DataFrame:
    """A text of 20 prompts: two tokens of three are easy, every third is hard; one prompt has a rare token."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(PROMPTS):
        for position in range(TOKENS):
            name = "rare" if (prompt, position) == (3, 5) else "hard" if position % 3 == 2 else "easy"
            mean = {"easy": easy, "hard": hard, "rare": 0.0}[name]
            value = float(np.clip(mean + rng.normal(0, 0.05), 0, 1))
            rows.append({"prompt_id": f"p{prompt}", "slice": name, "exact_sum": value, "n_positions": 1.0})
    return pd.DataFrame(rows)


def test_slices_add_up_to_the_whole_and_those_that_hold_most_refusals_come_first():
    table = tokens()
    result = sliced(table, "kind", "exact", 1.0)
    assert [item.name for item in result.slices] == ["hard", "easy", "rare"]
    assert sum(item.n_tokens for item in result.slices) == result.n_tokens == PROMPTS * TOKENS
    assert sum(item.refusal_share for item in result.slices) == pytest.approx(1)
    assert sum(item.token_share for item in result.slices) == pytest.approx(1)
    whole = sum(item.rate.value * item.n_tokens for item in result.slices) / result.n_tokens
    assert whole == pytest.approx(result.overall.value) == pytest.approx(table.exact_sum.mean())
    assert sum(item.refusals for item in result.slices) == pytest.approx((1 - table.exact_sum).sum())


def test_the_rate_and_interval_of_a_slice_are_those_of_its_prompts():
    table = tokens()
    hard = next(item for item in sliced(table, "kind", "exact", 1.0).slices if item.name == "hard")
    sums = table[table.slice == "hard"].groupby("prompt_id", sort=False)[["exact_sum", "n_positions"]].sum()
    expected = bootstrap_ratio(sums.exact_sum, sums.n_positions)
    assert hard.rate.as_dict() == pytest.approx(expected.as_dict())
    assert hard.n_prompts == PROMPTS


def test_the_gain_is_what_the_whole_would_be_with_the_slice_as_good_as_the_rest():
    table = tokens()
    hard = next(item for item in sliced(table, "kind", "exact", 1.0).slices if item.name == "hard")
    rest = table[table.slice != "hard"].exact_sum.mean()
    as_good = table.exact_sum.where(table.slice != "hard", rest).mean()
    assert hard.gain.value == pytest.approx(as_good - table.exact_sum.mean())
    assert 0 < hard.gain.low < hard.gain.value < hard.gain.high


def test_a_slice_that_is_all_there_is_has_no_rest_to_be_compared_with():
    (only,) = sliced(tokens().assign(slice="all"), "group", "exact", 1.0).slices
    assert math.isnan(only.gain.value)
    assert (only.refusal_share, only.token_share) == (1, 1)


def test_a_slice_of_few_tokens_or_prompts_is_marked():
    few = {item.name: item.few for item in sliced(tokens(), "kind", "exact", 1.0).slices}
    assert few == {"easy": False, "hard": False, "rare": True}
    assert is_few(FEW_PROMPTS - 1, 10_000)
    assert is_few(500, FEW_TOKENS - 1)
    assert not is_few(FEW_PROMPTS, FEW_TOKENS)


def test_what_falls_short_of_tau_is_a_target_forward():
    rows = [
        {"prompt_id": p, "slice": name, "emitted": 1.0, "rounds": rounds}
        for p in ("a", "b")
        for name, rounds in (("x", 1.0), ("x", 0.0), ("y", 0.0), ("y", 1.0), ("z", 0.0))
    ]
    result = sliced(pd.DataFrame(rows), "kind", "tau", 0.0)
    by_name = {item.name: item for item in result.slices}
    assert result.overall.value == pytest.approx(10 / 4)
    assert (by_name["x"].rate.value, by_name["x"].refusals) == (2.0, 2.0)
    assert math.isnan(by_name["z"].rate.value)  # no round ended there
    assert by_name["z"].gain.value < 0  # without it the whole would be lower


def test_what_falls_short_of_any_rate_per_target_forward_is_a_forward(monkeypatch):
    monkeypatch.setitem(RATES, "per_round", Rate("Per round", "accepted / rounds", "", "accepted", ("rounds",)))
    table = pd.DataFrame([{"prompt_id": p, "slice": "x", "accepted": 3.0, "rounds": 1.0} for p in "ab"])
    (item,) = sliced(table, "kind", "per_round", 0.0).slices
    assert (item.rate.value, item.refusals) == (3.0, 2.0)


def test_nothing_measured_is_refused():
    with pytest.raises(DraftbenchError, match="no token was measured for exact"):
        sliced(tokens().assign(n_positions=0.0, exact_sum=0.0), "kind", "exact", 1.0)


def test_two_drafts_differ_where_they_do():
    a, b = tokens(), tokens(hard=0.6)
    rows = differences(a, b, "exact", pd.Index(a.prompt_id.unique()))
    assert rows[0].name == "hard"
    assert rows[0].difference.value == pytest.approx(0.3, abs=0.02)
    assert rows[0].difference.low > 0.25
    assert sum(row.share_of_change for row in rows) == pytest.approx(1)
    assert {row.name: row.few for row in rows}["rare"]


def test_a_draft_does_not_differ_from_itself():
    rows = differences(tokens(), tokens(), "exact", pd.Index([f"p{i}" for i in range(PROMPTS)]))
    assert {(row.difference.value, row.difference.low, row.difference.high) for row in rows if not row.few} == {
        (0, 0, 0)
    }
    assert all(math.isnan(row.share_of_change) for row in rows)  # of no change there are no shares


def test_only_the_common_prompts_are_compared():
    a, b = tokens(), tokens(hard=0.6)
    rows = differences(a, b, "exact", pd.Index(["p0", "p1"]))
    assert {row.n_prompts for row in rows} == {2}
    assert {row.few for row in rows} == {True}


def test_slices_of_different_texts_have_no_share_of_the_change():
    a = pd.DataFrame({"prompt_id": "p", "slice": "x", "accepted": [1.0, 0.0], "drafted": 1.0})
    b = pd.DataFrame({"prompt_id": "p", "slice": "x", "accepted": [1.0, 1.0, 1.0], "drafted": 1.0})
    (row,) = differences(a, b, "per_proposed", pd.Index(["p"]))
    assert (row.a, row.b, row.n_tokens) == (0.5, 1.0, 2)
    assert math.isnan(row.share_of_change)


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_can_be_sliced(rate: str):
    columns = {RATES[rate].numerator, *RATES[rate].denominator}
    table = pd.DataFrame({"prompt_id": ["a", "b"] * 6, "slice": ["x"] * 6 + ["y"] * 6, **dict.fromkeys(columns, 1.0)})
    assert {item.name for item in sliced(table, "kind", rate, 0.0).slices} == {"x", "y"}


def test_the_command_that_measures_again_names_the_run_by_its_id(tmp_path: Path):
    folder = tmp_path / "my run $(touch pwned)" / "measure"
    fix = _lacks(folder, "positions.parquet has no column entropy", "the target's entropy").fix
    assert f"`draftbench measure {run_id_of(folder.parent.name)}`" in fix
    assert "$(" not in fix
