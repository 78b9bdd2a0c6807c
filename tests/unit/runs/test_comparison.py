"""Shipped runs, made before a measurement wrote a hash of its answers, are compared by their tokens."""

import json
import shutil
from pathlib import Path

import pytest

from engine.cli.text import runs as text
from engine.errors import DraftbenchError
from engine.index import queries
from engine.index.connection import reading
from engine.index.ingest import add_details, ingest_all
from engine.measure.compare import prompt_sums
from engine.paths import Home, home
from engine.runs.compare_runs import compare_runs, measurement_of
from engine.runs.folder import RunFolder
from engine.runs.samples import SAMPLES

FORWARD_KL, SFT = "biology-forward-kl-20261122-101542-9142", "biology-sft-20261122-101923-9812"
REVERSE_KL = "biology-reverse-kl-20261122-102213-d0a1"
OTHER_TARGET = "generic-20261122-144122-4cdf"


def shipped(run_id: str) -> RunFolder:
    return RunFolder(SAMPLES / run_id)


def test_two_shipped_runs_are_compared_at_every_rate_and_temperature():
    comparison = compare_runs(shipped(FORWARD_KL), shipped(SFT))
    assert (comparison["a"], comparison["b"], comparison["differs"]) == (FORWARD_KL, SFT, {})
    assert {(row["temperature"], row["comparable"]) for row in comparison["rows"]} == {(0.0, True), (1.0, True)}
    assert len(comparison["rows"]) == 12
    assert [row["temperature"] for row in comparison["greedy_agreement"]] == [0.0, 1.0]
    assert comparison["not_measured"] == {"A": ["argmax"], "B": ["argmax"]}  # they are older than this rate
    assert comparison["servers"]["sglang"] == {"figure": "accept rate", "rate": "argmax"}


def test_a_rate_that_an_earlier_version_left_out_comes_with_a_command_that_this_run_can_be_given(
    capsys: pytest.CaptureFixture[str],
):
    for name in (FORWARD_KL, REVERSE_KL):
        shutil.copytree(SAMPLES / name, home().runs / name)
    text.comparison(compare_runs(shipped(FORWARD_KL), shipped(REVERSE_KL)))
    words = " ".join(capsys.readouterr().out.split())
    assert f"without argmax; `draftbench measure {FORWARD_KL}` makes it again" in words
    assert f"draftbench measure {REVERSE_KL}" not in words  # it came without weights
    assert f"{REVERSE_KL}/config.yaml` trains it again" in words
    assert "shared draft" not in words  # neither run has one


def test_runs_of_another_gamma_are_partly_comparable(tmp_path: Path):
    other = RunFolder(Path(shutil.copytree(SAMPLES / SFT, tmp_path / SFT)))
    summary = json.loads(other.summary_path.read_text())
    summary["conditions"]["num_draft_tokens"] = 5
    other.summary_path.write_text(json.dumps(summary))
    said = compare_runs(shipped(FORWARD_KL), other)["comparability"]
    assert said["comparable"] == "partly comparable"
    assert said["rates"] == ["exact", "greedy_agreement"]
    assert said["not"] == {"num_draft_tokens differ": ["per_proposed", "per_examined", "per_emitted", "tau"]}
    assert compare_runs(shipped(FORWARD_KL), shipped(SFT))["comparability"]["comparable"] == "comparable"
    summary["conditions"]["dtype"] = "float32"
    other.summary_path.write_text(json.dumps(summary))
    assert compare_runs(shipped(FORWARD_KL), other)["comparability"]["comparable"] == "not comparable"


def test_runs_of_another_target_have_no_answer_in_common():
    with pytest.raises(DraftbenchError, match="no held-out answer in common") as refused:
        compare_runs(shipped(FORWARD_KL), shipped(OTHER_TARGET))
    assert "same target" in refused.value.fix


def test_the_interval_takes_the_resamples_of_the_recipe_unless_another_number_is_given():
    assert measurement_of(shipped(SFT)).bootstrap_samples == shipped(SFT).recipe().measure.bootstrap_samples
    assert measurement_of(shipped(SFT), 100).bootstrap_samples == 100


def test_the_index_knows_an_answer_by_the_hash_that_a_measurement_writes(tmp_path: Path):
    home = Home(tmp_path)
    for run_id in (FORWARD_KL, SFT):
        shutil.copytree(SAMPLES / run_id, home.run(run_id))
    ingest_all(home)
    with reading(home.index) as con:
        assert queries.prompt_sums(con, [SFT]).answer.isna().all()  # its tokens have not been read yet
    add_details(home, [FORWARD_KL, SFT])
    with reading(home.index) as con:
        indexed = queries.prompt_sums(con, [SFT])
    answers = prompt_sums(SAMPLES / SFT / "measure").set_index(["temperature", "prompt_id"]).answer.to_dict()
    trained = indexed[indexed.draft == "trained"]
    assert len(answers) == len(trained) == 80
    assert trained.set_index(["temperature", "prompt_id"]).answer.to_dict() == answers
