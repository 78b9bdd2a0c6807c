"""A draft's speed at each gamma: what was measured stays so, the rest is predicted and says from what."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from engine.deploy.by_gamma import round_cost, speed_by_gamma
from engine.runs.folder import RunFolder
from engine.runs.samples import SAMPLES

TIMED, INTERPOLATED = "serve-biology-20261122-183032-c638", "biology-forward-kl-20261122-101542-9142"
UNTIMED = "first-function-calling-synthetic-tvd-50-20261122-201335-8c7b"


@pytest.fixture
def copied(tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(SAMPLES / INTERPOLATED, tmp_path / INTERPOLATED)))


def test_the_timed_gamma_is_measured_and_the_others_are_predicted_with_intervals():
    run = RunFolder(SAMPLES / TIMED)
    speed, known = run.summary().speed, speed_by_gamma(run)
    assert speed is not None
    assert known is not None
    gamma = speed.forward_s.num_draft_tokens
    assert known.at(gamma) == (speed.speedup, True)
    assert sorted(known.predicted) == list(range(1, 9))
    for value in known.predicted.values():
        assert value.low < value.value < value.high
    assert known.at(8) == (known.predicted[8], False)
    assert known.at(9) is None
    assert known.basis == "acceptance by token, step times of each gamma"


def test_without_step_times_the_runs_own_timing_is_interpolated():
    run = RunFolder(SAMPLES / INTERPOLATED)
    speed, known = run.summary().speed, speed_by_gamma(run)
    assert known is not None
    assert known.basis == "acceptance by token, times interpolated from those at gamma 3"
    low, high = speed.speedup.low, speed.speedup.high
    assert low - 0.05 < known.predicted[3].value < high + 0.05, "the prediction is near what was measured"
    assert known.best == 1, "the draft refuses most: the shorter the better"
    rows = {row.gamma: row for row in speed.by_gamma}
    costs = {gamma: known.predicted[gamma].value * rows[gamma].expected_tokens / rows[gamma].measured for gamma in rows}
    assert all(1 < tokens < gamma + 1 for gamma, tokens in costs.items()), "speed-up times cost is tokens per round"


def test_step_times_of_another_draft_are_used_for_nothing(tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(SAMPLES / TIMED, tmp_path / TIMED)))
    card = run.path / "draft" / "best" / "draft.json"
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(json.dumps({"weights_sha256": "0" * 64}), encoding="utf-8")
    known = speed_by_gamma(run)
    assert known is not None
    assert "interpolated" in known.basis
    assert known.notes == ("its step times were measured with an earlier draft of this run, and are not used",)


def test_a_round_costs_what_step_times_say_or_else_what_the_runs_own_timing_does():
    timed, interpolated = RunFolder(SAMPLES / TIMED), RunFolder(SAMPLES / INTERPOLATED)
    assert 1 < round_cost(timed, 1) < round_cost(timed, 4) < round_cost(timed, 8)
    own = interpolated.summary().speed.forward_s
    assert round_cost(interpolated, 3) == pytest.approx(own.round_cost)
    assert math.isnan(round_cost(timed, 9))
    assert math.isnan(round_cost(RunFolder(SAMPLES / UNTIMED), 1))


def test_a_run_that_was_not_timed_has_none():
    assert speed_by_gamma(RunFolder(SAMPLES / UNTIMED)) is None


def test_without_acceptance_by_token_the_cost_model_stands_in_and_says_so(copied: RunFolder):
    path = copied.path / "measure" / "positions.parquet"
    table = pd.read_parquet(path)
    table[table.temperature != 0].to_parquet(path, index=False)
    known = speed_by_gamma(copied)
    assert known is not None
    assert known.basis == "the cost model at the measured acceptance, without an interval"
    assert math.isnan(known.predicted[1].low)
    assert any("acceptance by token is not on record" in note for note in known.notes)


def test_times_that_tell_nothing_leave_what_was_measured(copied: RunFolder):
    path = copied.path / "measure" / "summary.json"
    summary = json.loads(path.read_text())
    summary["speed"]["by_gamma"] = []
    path.write_text(json.dumps(summary))
    known = speed_by_gamma(copied)
    assert known is not None
    assert (known.predicted, known.best, list(known.measured)) == ({}, 3, [3])
    assert known.notes == ("no times to predict other gammas from",)
