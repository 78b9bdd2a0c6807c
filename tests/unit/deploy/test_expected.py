"""From `measure --batch-sizes` to what a server is expected to do, on a run of the tiny pair."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from engine.catalogue import SERVERS
from engine.config.reading import dump_recipe, load_recipe
from engine.deploy.expected import expectations
from engine.errors import DraftbenchError
from engine.fileio import read_json, sha256_file
from engine.paths import Home, home
from engine.records.step_times import StepTimes
from engine.runs.execution import time_steps_again
from engine.runs.folder import RunFolder
from tests.kill import kill_myself, run_until_killed
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow  # each on a copy of a whole run


@pytest.fixture
def run(finished_home: Path) -> RunFolder:
    return RunFolder.open(home(), "latest")


def table_hashes(run: RunFolder) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in (run.path / "measure").iterdir() if "step_times" not in path.name}


def test_batch_sizes_add_step_times_and_leave_the_measurement_as_it_was(run: RunFolder, draftbench: Draftbench):
    before = table_hashes(run)
    result = draftbench("measure", run.id, "--batch-sizes", "2,1", "--contexts", "24", "--json")
    assert result.code == 0, result.err
    assert table_hashes(run) == before
    assert run.status().state == "done"
    record = StepTimes.read(run.path)
    assert [(cell.batch_size, cell.context) for cell in record.cells] == [(1, 24), (2, 24)]
    assert result.json()["cells"] == record.document()["cells"]
    assert (record.device, record.dtype, record.threads) == ("cpu", "float32", 1)
    assert record.draft_sha256 == read_json(run.path / "draft" / "best" / "draft.json")["weights_sha256"]
    assert record.machine.processor

    # another batch size is added; without --contexts the middle of the run's own answers counts
    shown = draftbench("measure", run.id, "--batch-sizes", "1")
    assert shown.code == 0, shown.err
    usual = record.usual_context
    assert {(c.batch_size, c.context) for c in StepTimes.read(run.path).cells} == {(1, 24), (2, 24), (1, usual)}
    assert "has other times, and another best gamma" in " ".join(shown.out.split())

    predicted = draftbench("served", "predict", run.id, "--json")
    assert predicted.code == 0, predicted.err
    check_document(predicted.json(), run, usual)
    text = draftbench("served", "predict", run.id, "--for", "vllm")
    assert "rejection_sample_method" in text.out
    assert "has other times, and another best gamma" in " ".join(text.out.split())


def check_document(document: dict, run: RunFolder, usual: int) -> None:
    """Every server with every rule, each with what its own figures say."""
    wanted = {
        (name, rule, temperature)
        for name, server in SERVERS.items()
        for temperature in (0.0, 1.0)
        for rule in (server.proposals if temperature else server.proposals[:1])
    }
    rows = {(row["server"], row["proposals"], row["temperature"]): row for row in document["servers"]}
    assert set(rows) == wanted
    assert document["schedule_context"] == usual
    gamma = run.summary().conditions.num_draft_tokens
    for (server, *_), row in rows.items():
        places = [place["value"] for place in row["rates"]["accepted_at"]]
        assert len(places) == gamma
        assert row["rate_name"] == SERVERS[server].acceptance
        assert sum(places) == pytest.approx(row["rates"]["accepted_per_round"]["value"])
        assert row["worth"]["answer"] in ("serve it", "no gain", "not decided yet")
        assert {(c["batch_size"], c["context"]) for c in row["cells"]} == {(1, 24), (2, 24), (1, usual)}
        for cell in row["cells"]:
            values = {s["gamma"]: s["speedup"]["value"] for s in cell["choice"]["by_gamma"]}
            assert cell["choice"]["best"] in {0, *values}
    assert rows["vllm", "argmax", 1.0]["is_default"]
    assert not rows["vllm", "sampled", 1.0]["is_default"]


def test_a_kill_keeps_the_cells_that_were_whole_and_the_measurement(run: RunFolder):
    before = table_hashes(run)
    run_until_killed(_time_until_the_second_cell, home().root, run.id)
    assert table_hashes(run) == before
    assert [(c.batch_size, len(c.rounds)) for c in StepTimes.read(run.path).cells] == [(1, 9)]
    again = time_steps_again(home(), run, [2], [24])
    assert [c.batch_size for c in again.cells] == [1, 2]


def _time_until_the_second_cell(root: Path, run_id: str) -> None:
    """`root`: of the home, since the server that forks this process has the environment of an earlier test."""
    from engine.runs import step_times

    whole, cells = step_times.step_times.time_cell, []

    def killed(*models, **options):
        cells.append(1)
        return whole(*models, **options) if len(cells) == 1 else kill_myself()

    step_times.step_times.time_cell = killed
    time_steps_again(Home(root), RunFolder.open(Home(root), run_id), [1, 2], [24])


def test_times_of_other_conditions_are_not_mixed(run: RunFolder):
    time_steps_again(home(), run, [1], [24])
    record = StepTimes.read(run.path)
    record.model_copy(update={"threads": 64}).write(run.path)
    again = time_steps_again(home(), run, [2], [24])
    assert [c.batch_size for c in again.cells] == [2]
    assert "other conditions" in (run.path / "log.txt").read_text(encoding="utf-8")


def test_without_step_times_the_runs_own_timing_answers_and_what_to_run_is_said(run: RunFolder):
    found = expectations(run, servers=["vllm"])
    assert {row.schedule for row in found.rows} == {None}
    assert all(row.worth is not None and "acceptance alone" in row.worth.sentence for row in found.rows)
    assert any("--batch-sizes 1,2,4,8" in note for note in found.notes)
    assert math.isfinite(found.rows[0].worth.speedup.value)


def test_step_times_of_another_draft_are_used_for_nothing(run: RunFolder):
    without = expectations(run, servers=["vllm"])
    time_steps_again(home(), run, [1], [24])
    assert expectations(run, servers=["vllm"]).schedule_context == 24
    StepTimes.read(run.path).model_copy(update={"draft_sha256": "0" * 64}).write(run.path)
    found = expectations(run, servers=["vllm"])
    assert (found.rows, found.timed_on) == (without.rows, without.timed_on)
    assert {row.schedule for row in found.rows} == {None}
    assert any("with an earlier draft of this run, and are not used" in note for note in found.notes)


def test_a_prediction_stands_beside_what_the_run_measured_and_yields_to_it(run: RunFolder):
    summary = read_json(run.summary_path)
    at = summary["speed"]["temperature"]
    summary["speed"]["speedup"] |= {"value": 50.0, "low": 49.0, "high": 51.0, "n_prompts": 8}
    run.summary_path.write_text(json.dumps(summary))
    sentences = {row.temperature: row.worth.sentence for row in expectations(run, servers=["transformers"]).rows}
    assert "On the clock this run measured 50.00x [49.00, 51.00] at this gamma" in sentences[at]
    assert "trust the measured figure" in sentences[at]
    assert all("On the clock" not in words for other, words in sentences.items() if other != at)


@pytest.mark.parametrize("timed", ["sampled", "argmax"])
def test_the_clock_stands_beside_the_rule_that_was_timed(run: RunFolder, timed: str):
    summary = read_json(run.summary_path)
    summary["conditions"]["proposals"], summary["speed"]["temperature"] = timed, 1.0
    run.summary_path.write_text(json.dumps(summary))
    rows = [row for row in expectations(run, servers=["vllm"]).rows if row.temperature == 1.0]
    assert {row.proposals: "On the clock" in row.worth.sentence for row in rows if row.worth} == {
        rule: rule == timed for rule in ("sampled", "argmax")
    }


def test_a_measurement_of_an_earlier_version_says_what_to_run_for_the_rules_that_it_cannot_tell(run: RunFolder):
    path = run.path / "measure" / "positions.parquet"
    pd.read_parquet(path).drop(columns=["hit", "argmax_prob"]).to_parquet(path, index=False)
    found = expectations(run)
    rules = {(row.server, row.proposals, row.temperature) for row in found.rows}
    assert ("vllm", "sampled", 1.0) in rules
    assert ("vllm", "argmax", 1.0) not in rules
    assert ("vllm", "argmax", 0.0) in rules  # where both rules are one
    assert any(f"draftbench measure {run.id}" in note and "SGLang" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--batch-sizes", "0"), "whole number"),
        (("--batch-sizes", "1,x"), "whole number"),
        (("--batch-sizes", ""), "whole number"),
        (("--contexts", "64"), "--contexts without --batch-sizes"),
        (("--batch-sizes", "1", "--contexts", "100000"), "does not fit"),
        (("--batch-sizes", "1", "--set", "measure.seed=3"), "--set measure.seed=3"),
    ],
)
def test_wrong_input_is_explained_and_changes_nothing(run: RunFolder, draftbench: Draftbench, arguments, what):
    before = table_hashes(run)
    result = draftbench("measure", run.id, *arguments)
    assert result.code == 2
    assert what in result.err
    assert table_hashes(run) == before
    assert not (run.path / StepTimes.FILE).exists()


def test_a_run_measured_against_a_server_has_no_target_to_time(run: RunFolder, draftbench: Draftbench):
    path = run.path / "config.yaml"
    server = ["capture.server.base_url=http://127.0.0.1:9/v1", "capture.server.model=m", "measure.against=server"]
    path.write_text(
        dump_recipe(load_recipe(path, [*server, "capture.signal=none", "train.loss=sft"])), encoding="utf-8"
    )
    result = draftbench("measure", run.id, "--batch-sizes", "1")
    assert result.code == 2
    assert "measured against a server's text" in result.err


def test_an_unknown_server_and_damaged_step_times_are_explained(run: RunFolder, draftbench: Draftbench):
    result = draftbench("served", "predict", run.id, "--for", "vlm")
    assert result.code == 2
    assert "vllm" in result.err
    time_steps_again(home(), run, [1], [24])
    whole = read_json(run.path / StepTimes.FILE)
    for damage in ({"turns": [0.1]}, {"turns": [None] * 15}, {"gamma": 10**6}, {"verify_s": {}}, {"turns": []}):
        document = copy.deepcopy(whole)
        document["cells"][0]["rounds"][-1] |= damage
        (run.path / StepTimes.FILE).write_text(json.dumps(document), encoding="utf-8")
        found = expectations(run, servers=["vllm"])
        assert any("incomplete" in note for note in found.notes), damage
        assert {row.cells for row in found.rows} == {()}
    (run.path / StepTimes.FILE).write_text("{", encoding="utf-8")
    with pytest.raises(DraftbenchError, match=r"step_times\.json"):
        expectations(run, servers=["vllm"])
