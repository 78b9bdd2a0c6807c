"""The plan of a large study: its sums, what it rests on, and that it guesses nothing."""

import json
from pathlib import Path

import pytest

from benchmarks import cluster_plan
from benchmarks.cluster_plan import Rate, main, plan


def test_the_sums():
    rates = {"capture": Rate(100.0, ""), "training": Rate(500.0, ""), "rest": Rate(40.0, "")}
    made = plan(1000, 1e6, 10_000, rates, 1152)
    assert (made.capture_s, made.training_s, made.rest_s) == (10_000, 20_000, 40_000)
    assert made.worker_s == 70_000
    assert made.capture_bytes == 1.152e9
    assert made.wall_s(10, 60) == 7_000
    assert made.wall_s(10_000, 60) == 61  # a cell is worked on by one


@pytest.mark.slow
def test_the_shipped_measurements_give_a_plan_that_names_them(capsys: pytest.CaptureFixture[str]):
    assert main(["--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert "first" in made["rates"]["training"]["source"]
    assert "docs/performance/" in made["rates"]["capture"]["source"]
    hours = 100e6 / made["rates"]["capture"]["value"] / 3600
    assert made["worker_hours"]["captures"] == pytest.approx(hours)
    assert main(["--price", "2", "--capture-tokens-s", "9000"]) == 0
    printed = capsys.readouterr().out
    assert "given on the command line" in printed
    assert "cost: " in printed


@pytest.mark.slow
def test_what_was_not_measured_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["--home", str(tmp_path)]) == 2
    assert "no finished cell" in capsys.readouterr().err
    monkeypatch.setattr(cluster_plan, "PERFORMANCE", tmp_path)
    assert main([]) == 2
    assert "--capture-tokens-s" in capsys.readouterr().err
    assert main(["--capture-tokens-s", "100"]) == 0
    assert "No rate of a GPU was measured yet" in capsys.readouterr().out
