"""The whole way through the command line on a tiny pair: run, look, compare, stop, resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from engine.errors import DraftbenchError
from engine.fileio import read_lines, sha256_file
from engine.paths import home
from engine.progress import Progress
from engine.records.training import Training
from engine.runs import execution, training
from engine.runs import session as sessions
from engine.runs.folder import RunFolder
from engine.runs.plan import split_prompts
from engine.runs.recipes import read_recipe
from engine.runs.session import Session, load_target
from tests.unit.conftest import Draftbench, Result


def exact(document: Any) -> list[float]:
    return [m["value"] for m in document["metrics"] if m["metric"] == "exact" and m["draft"] == "trained"]


def at_training_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Calls `act` once the loss of training step `step` is known, as a signal at that moment would."""
    advance, seen = Progress.advance, []

    def watched(self: Progress, units: int = 1, **numbers: Any) -> None:
        advance(self, units, **numbers)
        if "loss" in numbers:
            seen.append(1)
            if len(seen) == step:
                act()

    monkeypatch.setattr(Progress, "advance", watched)


def test_a_run_leaves_a_whole_folder_and_says_what_it_measured(finished: tuple[Path, Result], finished_home: Path):
    result = finished[1]
    assert result.code == 0, result.err
    document = result.json()
    assert document["state"] == "done"
    assert document["certificate"]["passed"]
    rates = {(m["draft"], m["metric"]) for m in document["metrics"]}
    assert {("initial", "exact"), ("trained", "exact"), ("trained", "per_examined"), ("trained", "tau")} <= rates
    names = {p.name for p in (finished_home / "runs" / document["run"]).iterdir()}
    assert {"config.yaml", "status.json", "events.jsonl", "log.txt", "provenance.json", "draft", "measure"} <= names


def test_provenance_names_versions_commit_seeds_device_and_the_hashes_of_all_that_went_in(
    finished: tuple[Path, Result], finished_home: Path
):
    document = finished[1].json()
    run = RunFolder.open(home(), document["run"])
    origin = json.loads((run.path / "provenance.json").read_text(encoding="utf-8"))
    assert origin["versions"]["draftbench"]
    assert origin["versions"]["torch"]
    assert len(origin["source"]["commit"]) == 40
    assert origin["seeds"] == {"capture": 0, "train": 0, "measure": 0}
    assert origin["device"] == "cpu"
    assert len(origin["target_fingerprint"]) == 64
    assert origin["prompts"]["heldout_hash"] == document["conditions"]["heldout_hash"]
    assert len(origin["prompts"]["train_hash"]) == 64
    for capture in origin["captures"].values():
        assert (finished_home / "captures" / capture["address"] / "done.json").exists()
    measured = origin["measurement"]
    assert measured["draft_sha256"] == sha256_file(run.path / "draft" / "best" / "draft.safetensors")
    assert measured["versions"] == origin["versions"]


def test_events_tell_the_life_of_the_run(finished: tuple[Path, Result], finished_home: Path):
    events = list(read_lines(RunFolder.open(home(), "latest").path / "events.jsonl"))
    assert events[0]["kind"] == "started"
    assert events[0]["versions"]["torch"]
    assert events[-1] == {"at": events[-1]["at"], "kind": "ended", "state": "done"}
    assert [e["step"] for e in events if e["kind"] == "train"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_second_run_reuses_the_captures_and_is_compared_pairwise(
    finished: tuple[Path, Result], finished_home: Path, recipe: Path, draftbench: Draftbench
):
    answers = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in home().captures.glob("*/answers.jsonl")}
    assert len(answers) == 3
    second = draftbench("run", str(recipe), "--set", "train.loss={name: reverse_kl, beta: 0.2}", "--json")
    assert second.code == 0, second.err
    log = (RunFolder.open(home(), "latest").path / "log.txt").read_text(encoding="utf-8")
    assert "settings without effect beside the others: train.loss.beta=0.2" in log
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in home().captures.glob("*/answers.jsonl")} == answers
    document = draftbench("compare", "latest~1", "latest", "--json").json()
    assert (document["a"], document["b"]) == (finished[1].json()["run"], second.json()["run"])
    rows = [row for row in document["rows"] if row["metric"] == "exact"]
    assert [row["a"] for row in rows] == pytest.approx(exact(finished[1].json()))
    assert [row["b"] for row in rows] == pytest.approx(exact(second.json()))
    assert exact(second.json()) != exact(finished[1].json())


def test_rates_measured_under_other_conditions_are_not_compared(
    finished: tuple[Path, Result], finished_home: Path, draftbench: Draftbench
):
    run_id = finished[1].json()["run"]
    (finished_home / "runs" / run_id).rename(finished_home / "runs" / "first")
    other = finished_home / "runs" / "other"
    shutil.copytree(finished_home / "runs" / "first", other)
    summary = json.loads((other / "measure" / "summary.json").read_text(encoding="utf-8"))
    summary["conditions"]["num_draft_tokens"] = 7
    (other / "measure" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    rows = {
        (r["metric"], r["comparable"]): r["reason"]
        for r in draftbench("compare", "first", "other", "--json").json()["rows"]
    }
    assert rows["exact", True] is None
    assert rows["tau", False] == "num_draft_tokens differ"
    text = draftbench("compare", "first", "other").out
    assert "num_draft_tokens is 3 in A and 7 in B" in text
    assert "not comparable" in next(line for line in text.splitlines() if " tau " in line)


def test_a_comparison_says_on_how_many_prompts_each_rate_is(
    finished: tuple[Path, Result], finished_home: Path, draftbench: Draftbench
):
    """Of answers that are the same in half of the prompts, A's rate is another one than `show` prints of it."""
    run = finished_home / "runs" / finished[1].json()["run"]
    shutil.copytree(run, run.with_name("other"))
    table = pd.read_parquet(run.with_name("other") / "measure" / "prompts.parquet")
    changed = table.prompt_id == table.prompt_id.iloc[0]
    table.assign(answer=table.answer.where(~changed, "another")).to_parquet(
        run.with_name("other") / "measure" / "prompts.parquet"
    )
    text = draftbench("compare", run.name, "other").out
    assert "n: the prompts that were paired" in " ".join(text.split())
    columns, exact_row = (line.split() for line in text.splitlines() if line.startswith(("T  ", "0  exact")))
    assert columns[-1] == "n"
    assert int(exact_row[-1]) == table.prompt_id.nunique() - 1


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_stopped_run_resumes_to_the_same_weights(
    finished: tuple[Path, Result],
    finished_home: Path,
    recipe: Path,
    draftbench: Draftbench,
    monkeypatch: pytest.MonkeyPatch,
    signals: int,
):
    with monkeypatch.context() as patch:
        at_training_step(patch, 2, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(signals)] and None)
        stopped = draftbench("run", str(recipe), "--json")
    assert stopped.code == 130
    run = RunFolder.open(home(), "latest")
    assert f"draftbench run --resume {run.id}" in stopped.json()["error"]["fix"]
    assert run.status().state == "cancelled"
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == [f"step-{2 if signals == 1 else 1:08d}"]
    resumed = draftbench("train", "--resume", run.id, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json()["state"] == "done"
    whole = RunFolder.open(home(), finished[1].json()["run"])
    weights = [r.path / "draft" / "last" / "draft.safetensors" for r in (whole, run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [e["step"] for e in read_lines(run.path / "events.jsonl") if e["kind"] == "resumed"] == [3 - signals]


@pytest.mark.slow
def test_a_finished_training_leaves_no_checkpoint(
    finished: tuple[Path, Result],
    finished_home: Path,
    recipe: Path,
    draftbench: Draftbench,
    monkeypatch: pytest.MonkeyPatch,
):
    assert not (RunFolder.open(home(), "latest").path / "checkpoints").exists()
    for where, name in (
        (Training, "write"),
        (training, "drop_checkpoints"),
    ):  # killed before training.json is there, and after
        with monkeypatch.context() as patch:

            def end(*_: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(where, name, end)
            assert draftbench("run", str(recipe), "--json").code == 130
        run = RunFolder.open(home(), "latest")
        assert (run.path / "training.json").exists() == (name == "drop_checkpoints")
        assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-00000004"]
        assert draftbench("train", "--resume", run.id, "--json").code == 0
        steps = [e["step"] for e in read_lines(run.path / "events.jsonl") if e["kind"] == "train"]
        assert steps == [1, 2, 3, 4], "no step is done again"
        assert (run.path / "training.json").exists()
        assert not (run.path / "checkpoints").exists()


def test_a_finished_run_is_not_worked_on_again(
    finished: tuple[Path, Result], finished_home: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(execution, "measure", lambda session: pytest.fail("measured again"))
    document = draftbench("run", "--resume", "latest", "--json").json()
    assert exact(document) == exact(finished[1].json())


@pytest.mark.slow
def test_measuring_again_replaces_the_measurement_and_the_recipe_together(finished_home: Path, draftbench: Draftbench):
    document = draftbench("measure", "latest", "--set", "measure.num_draft_tokens=2", "--json").json()
    assert document["conditions"]["num_draft_tokens"] == 2
    run = RunFolder.open(home(), "latest")
    assert run.recipe().measure.num_draft_tokens == 2
    assert run.summary().document()["conditions"]["num_draft_tokens"] == 2
    assert run.status().state == "done"


def test_measuring_again_that_is_stopped_leaves_the_run_as_it_was(
    finished: tuple[Path, Result], finished_home: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    def stopped(session: Session) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "measure", stopped)
    assert draftbench("measure", "latest", "--set", "measure.num_draft_tokens=2").code == 130
    run = RunFolder.open(home(), "latest")
    assert run.recipe().measure.num_draft_tokens == 3
    assert exact(run.summary().document()) == exact(finished[1].json())
    assert run.status().state == "done"


def test_sizes_of_one_training_set_are_nested_and_share_their_heldout(recipe: Path):
    target = load_target(read_recipe(home(), str(recipe), (), skip_bad=False))

    def split(*settings: str) -> Any:
        return split_prompts(read_recipe(home(), str(recipe), settings, skip_bad=False), target)

    whole, some, few = split(), split("prompts.train_prompts=5"), split("prompts.train_prompts=2", "train.seed=3")
    assert [len(part.train) for part in (few, some, whole)] == [2, 5, 8]
    assert {p.id for p in few.train} < {p.id for p in some.train} < {p.id for p in whole.train}
    assert few.measured == some.measured == whole.measured
    assert few.watched == whole.watched
    assert (few.counts["train"], few.counts["beyond_train_prompts"]) == (2, 6)
    assert split("prompts.train_prompts=8").train == whole.train
    with pytest.raises(DraftbenchError, match="train_prompts is 9, but there are 8"):
        split("prompts.train_prompts=9")


@pytest.mark.slow
def test_a_run_keeps_the_prompts_it_began_with(
    recipe: Path, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    train = tmp_path / "train.jsonl"
    train.write_text((recipe.parent / "train.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    with monkeypatch.context() as patch:
        at_training_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert draftbench("run", str(recipe), "--set", f"prompts.train={train}").code == 130
    whole = train.read_text(encoding="utf-8")
    train.write_text(whole.replace("question", "riddle"), encoding="utf-8")
    refused = draftbench("run", "--resume", "latest")
    assert refused.code == 2
    assert "the train prompts" in refused.err
    train.write_text(whole, encoding="utf-8")
    assert draftbench("train", "--resume", "latest").code == 0


@pytest.mark.slow
def test_a_trimmed_draft_goes_from_recipe_to_measurement_and_on_to_another_run(
    recipe: Path, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    """A vocabulary of 60 ids: trained, measured, used as the checkpoint of another run, and measured unchanged."""
    first = draftbench("run", str(recipe), "--set", "draft.vocabulary=60", "--set", "name=first", "--json")
    assert first.code == 0, first.err
    card = json.loads((RunFolder.open(home(), "first").path / "draft" / "best" / "draft.json").read_text())
    assert card["info"]["vocabulary"] == 60
    settings = ["draft.init=checkpoint", "draft.checkpoint=first", "draft.vocabulary=70", "name=second"]
    second = draftbench("run", str(recipe), *[part for s in settings for part in ("--set", s)], "--json")
    assert second.code == 0, second.err

    def rates(document: Any, draft: str) -> list[float]:
        return [m["value"] for m in document["metrics"] if m["metric"] == "exact" and m["draft"] == draft]

    assert rates(second.json(), "initial") == pytest.approx(rates(first.json(), "trained"))
    origin = json.loads((RunFolder.open(home(), "second").path / "provenance.json").read_text())
    assert origin["checkpoint_sha256"] == card["weights_sha256"]


@pytest.mark.slow
def test_a_vocabulary_that_does_not_fit_costs_no_capture(
    recipe: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "capture", lambda *_: pytest.fail("captured"))
    refused = draftbench("run", str(recipe), "--set", "draft.vocabulary=60000")
    assert refused.code == 2
    assert "the target has 258 ids" in refused.err
