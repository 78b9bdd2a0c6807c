"""Where the cells of a study stand: which runs count, starting, growing, a cell that fails, a worker that dies."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import DraftbenchError
from engine.fileio import write_json
from engine.jobs import queue
from engine.models.hashes import hashes_of_model
from engine.paths import PROJECT_ROOT, home
from engine.records.study_tag import study_tag
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import read_labels
from engine.study import inputs
from engine.study.known import find, known, shipped
from engine.study.overview import overview
from engine.study.results import cell_results
from engine.study.spec import StudySpec, load_study
from engine.study.start import start, study, wait
from tests.unit.jobs.test_queue import until
from tests.unit.study.studies import Written, cells_of, run_of, stands


def test_a_cell_is_done_iff_a_run_of_the_same_identity_is(written: Written, no_worker: None):
    path = written()
    first, second = (cell.recipe for cell in cells_of(path).cells)
    assert stands(path) == {"s-forward-kl": "to do", "s-sft": "to do"}
    run_of(first.model_copy(update={"name": "made-before", "tags": ["mine"]}), "done")
    run_of(second, "failed")
    assert stands(path) == {"s-forward-kl": "done", "s-sft": "failed"}
    waits = RunFolder.create(home(), second, queued_at="2026-01-01")
    assert stands(path)["s-sft"] == "waiting"  # of several runs the one that is furthest
    waits.set_status(state="cancelled")
    assert stands(path)["s-sft"] == "failed"
    (waits.path / "config.yaml").write_text("{")
    assert stands(path)["s-forward-kl"] == "done"  # a damaged run hides none of the others


def began_with(run: RunFolder, folder: Path) -> None:
    """Note what a run of the study's two cells has read, as the pipeline does."""
    from engine.chat.prompt import prompts_hash
    from engine.data.readers import read_prompts
    from engine.data.subsets import nested_subset

    recipe = run.recipe()
    train = read_prompts(recipe.prompts.train, skip_bad=False).prompts
    chosen = nested_subset(train, recipe.prompts.train_prompts)
    held = read_prompts(recipe.prompts.heldout, skip_bad=False).prompts
    write_json(run.path / "prompts.json", {"train": prompts_hash(chosen), "heldout": prompts_hash(held)})


def prompts_file(path: Path, count: int, word: str) -> None:
    path.write_text("".join(json.dumps({"prompt": f"number {f'{word}{i} ' * 9}?"}) + "\n" for i in range(count)))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
@pytest.mark.parametrize(("name", "words"), [("a", "training prompts"), ("held", "held-out prompts")])
def test_a_run_of_prompts_that_were_edited_since_holds_no_cell(
    written: Written, tmp_path: Path, no_worker: None, state: str, name: str, words: str
):
    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 3}})
    prompts_file(tmp_path / "a.jsonl", 5, "apple")
    prompts_file(tmp_path / "held.jsonl", 4, "pear")
    run = run_of(cells_of(path).cells[0].recipe, state)
    began_with(run, tmp_path)
    assert study(home(), load_study(path)).placed[0].run is not None
    assert study(home(), load_study(path)).passed_over == []
    before = (tmp_path / f"{name}.jsonl").read_text()
    (tmp_path / f"{name}.jsonl").write_text(before.replace("number", "count"))
    found = study(home(), load_study(path))
    assert (found.placed[0].state, found.placed[0].run) == ("to do", None)
    assert found.passed_over == [f"run {run.id} began with other {words} than lie there now"]
    assert cell_results(found)[0]["problem"] == found.passed_over[0]
    assert (len(start(home(), found).submitted), run.status().state) == (2, state)  # it is not resumed either
    (tmp_path / f"{name}.jsonl").write_text(before)
    assert study(home(), load_study(path)).placed[0].run is not None
    assert study(home(), load_study(path)).passed_over == []


def test_prompts_that_a_filter_took_out_are_no_difference(written: Written, tmp_path: Path, no_worker: None):
    from engine.chat.prompt import prompts_hash
    from engine.data.readers import read_prompts

    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 4}})
    prompts_file(tmp_path / "a.jsonl", 5, "apple")
    prompts_file(tmp_path / "held.jsonl", 4, "pear")
    with (tmp_path / "held.jsonl").open("a") as held:
        held.write((tmp_path / "a.jsonl").read_text().splitlines()[0] + "\n")
    run = run_of(cells_of(path).cells[0].recipe, "done")
    began_with(run, tmp_path)
    noted = json.loads((run.path / "prompts.json").read_text())
    kept = read_prompts(run.recipe().prompts.train).prompts[1:]  # the first one is held out
    write_json(run.path / "prompts.json", {**noted, "train": prompts_hash(kept)})
    assert study(home(), load_study(path)).passed_over == []
    write_json(run.path / "prompts.json", {**noted, "train": prompts_hash(kept[1:])})
    assert len(study(home(), load_study(path)).passed_over) == 1


def test_prompts_are_read_once_for_all_looks(
    written: Written, tmp_path: Path, no_worker: None, monkeypatch: pytest.MonkeyPatch
):
    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 3}})
    prompts_file(tmp_path / "a.jsonl", 5, "apple")
    prompts_file(tmp_path / "held.jsonl", 4, "pear")
    for cell in cells_of(path).cells:
        began_with(run_of(cell.recipe, "done"), tmp_path)
    assert stands(path) == {"s-forward-kl": "done", "s-sft": "done"}
    monkeypatch.setattr(inputs, "read_prompts", lambda *_, **__: pytest.fail("read again"))
    inputs._read.cache_clear()  # another process
    inputs._kept.cache_clear()
    assert stands(path) == {"s-forward-kl": "done", "s-sft": "done"}


def test_a_run_of_a_draft_that_was_trained_anew_holds_no_cell(written: Written, tmp_path: Path, no_worker: None):
    card = tmp_path / "generic" / "draft.json"
    write_json(card, {"weights_sha256": "one"})
    base = {
        "prompts": {"train": "a.jsonl", "heldout": "held.jsonl"},
        "draft": {"init": "checkpoint", "checkpoint": "generic"},
    }
    path = written(base=base)
    run = run_of(cells_of(path).cells[0].recipe, "done")
    write_json(run.path / "provenance.json", {"checkpoint_sha256": "one"})
    assert stands(path)["s-forward-kl"] == "done"
    write_json(card, {"weights_sha256": "two", "rounded_from": None})
    assert stands(path)["s-forward-kl"] == "to do"


@pytest.mark.parametrize("changed", ["target/model.safetensors", "adapter/adapter_model.safetensors"])
def test_a_run_of_a_target_whose_files_were_replaced_holds_no_cell(
    written: Written, tmp_path: Path, no_worker: None, changed: str
):
    for name in ("target/config.json", "target/model.safetensors", "adapter/adapter_model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    target = {"model": str(tmp_path / "target"), "adapter": str(tmp_path / "adapter")}
    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl"}, "target": target})
    run = run_of(cells_of(path).cells[0].recipe, "done")
    assert stands(path)["s-forward-kl"] == "done"  # of before the files were kept
    adapter = {f"adapter/{name}": sha256 for name, sha256 in hashes_of_model(tmp_path / "adapter").items()}
    write_json(run.path / "target.json", {"files": hashes_of_model(tmp_path / "target") | adapter, "template": "t"})
    (tmp_path / "target" / "tuning.json").write_text("{}")
    assert stands(path)["s-forward-kl"] == "done"
    (tmp_path / changed).write_text("other")
    found = study(home(), load_study(path))
    assert found.placed[0].run is None
    assert found.passed_over == [f"run {run.id} began with other files of the target than lie there now"]


def test_the_reference_of_a_base_is_found_beside_it(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bases" / "reference").mkdir(parents=True)
    values = {
        "prompts": {"train": "../a.jsonl", "heldout": "../held.jsonl"},
        "train": {"selection": {"share": 0.5, "reference": "reference"}},
    }
    (tmp_path / "bases" / "base.yaml").write_text(yaml.safe_dump(values))
    cell = cells_of(written(base="bases/base.yaml", axes={"loss": ["forward_kl"]})).cells[0]
    assert cell.recipe.train.selection.reference == str(tmp_path / "bases" / "reference")


def test_cells_are_expanded_once_for_several_looks(written: Written, monkeypatch: pytest.MonkeyPatch):
    from engine.study import cells as making

    path, times = written(), []
    expand_it = making.expand
    monkeypatch.setattr(making, "expand", lambda spec, where: times.append(spec.name) or expand_it(spec, where))
    assert [stands(path), stands(path)] == [{"s-forward-kl": "to do", "s-sft": "to do"}] * 2
    stands(path, "train.epochs=2")
    assert len(times) == 2


def test_a_run_that_ends_while_its_worker_is_looked_for_stops_nobody(written: Written, monkeypatch: pytest.MonkeyPatch):
    from engine.study.start import nudge

    woken: list[Any] = []
    monkeypatch.setattr(queue, "wake", woken.append)
    path = written()
    run = RunFolder.create(home(), cells_of(path).cells[0].recipe, queued_at="2026-01-01")
    seen = study(home(), load_study(path))
    for state in ("done", "cancelled"):
        run.set_status(state=state)
        nudge(home(), seen)  # as it stood a moment ago
        assert run.status().state == state
    assert woken == [home(), home()]


def test_a_start_queues_what_is_missing_once_and_adopts_what_is_there(written: Written, no_worker: None):
    path = written(axes={"loss": ["forward_kl", "sft", "tvd", "jsd"]})
    recipes = [cell.recipe for cell in cells_of(path).cells]
    old = run_of(recipes[0].model_copy(update={"tags": ["mine"], "name": "old"}), "done")
    failed, stopped = run_of(recipes[1], "failed"), run_of(recipes[2], "cancelled")
    wanted = study(home(), load_study(path))
    done = start(home(), wanted)
    assert [run.recipe() for run in done.submitted] == [recipes[3]]
    assert [run.id for run in done.resumed] == [stopped.id, failed.id]
    assert read_labels(old).tags == ("mine", "study:s")
    assert [run.id for run in queue.waiting(home())] == [stopped.id, done.submitted[0].id, failed.id]
    again = start(home(), wanted)  # as it stood before: looked at anew
    assert (again.submitted, again.resumed) == ([], [])
    assert len(run_folders(home())) == 4
    assert known(home()) == ["s"]


def test_two_callers_at_once_start_each_cell_once(written: Written, no_worker: None):
    wanted = study(home(), load_study(written()))
    with ThreadPoolExecutor(4) as callers:
        done = [caller.result() for caller in [callers.submit(start, home(), wanted) for _ in range(4)]]
    assert sum(len(one.submitted) for one in done) == len(run_folders(home())) == 2


def test_what_is_resumed_asks_for_the_resources_that_the_study_names_now(written: Written, no_worker: None):
    path = written()
    run = run_of(cells_of(path).cells[0].recipe, "failed")
    left = run_of(cells_of(path).cells[1].recipe, "done")
    wanted = study(home(), load_study(path, ["resources.memory_gb=64", "resources.gpus=2"]))
    assert [one.id for one in start(home(), wanted).resumed] == [run.id]
    assert (run.recipe().resources.memory_gb, run.recipe().resources.gpus) == (64, 2)
    assert "resources are those of the study's recipe now" in (run.path / "log.txt").read_text()
    assert left.recipe().resources.memory_gb is None
    assert stands(path) == {"s-forward-kl": "waiting", "s-sft": "done"}


def test_what_failed_can_be_left(written: Written, no_worker: None):
    path = written()
    run_of(cells_of(path).cells[0].recipe, "failed")
    done = start(home(), study(home(), load_study(path)), retry_failed=False)
    assert (len(done.submitted), done.resumed) == (1, [])


@pytest.mark.slow
def test_a_failing_cell_stops_no_other_and_a_study_can_grow(written: Written, fake_engine: None, tmp_path: Path):
    losses = {
        name: {"train.loss": name, "notes": "dies early" if name == "sft" else ""} for name in ("tvd", "sft", "jsd")
    }
    path = written(axes={"loss": losses})
    wanted = study(home(), load_study(path))
    start(home(), wanted)
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert {one.cell.labels["loss"]: one.state for one in ended.placed} == {
        "tvd": "done",
        "sft": "failed",
        "jsd": "done",
    }
    assert cell_results(ended)[1]["problem"].startswith("the process ended")
    made = {run.id for run in run_folders(home())}

    grown = written(axes={"loss": {**losses, "forward_kl": {"train.loss": "forward_kl"}}})
    assert stands(grown) == {"s-tvd": "done", "s-sft": "failed", "s-jsd": "done", "s-forward-kl": "to do"}
    wanted = study(home(), load_study(grown))
    done = start(home(), wanted)
    assert (len(done.submitted), len(done.resumed)) == (1, 1)
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert ended.counts == {"done": 3, "failed": 1}
    assert {run.id for run in run_folders(home())} - made == {done.submitted[0].id}
    assert overview(home()) == [{"study": "s", "cells": 4, "done": 3, "under_way": 0, "failed": 1, "problem": ""}]


@pytest.mark.slow
def test_a_worker_that_was_killed_is_missed(written: Written, fake_engine: None, tmp_path: Path, monkeypatch: Any):
    from engine.study import start as starting
    from tests.unit.jobs.test_queue import ours, worker

    monkeypatch.setattr(starting, "_NUDGE_S", 0.2)
    path = written(axes={"loss": {"tvd": {"train.loss": "tvd", "notes": "waits"}, "sft": {"train.loss": "sft"}}})
    wanted = study(home(), load_study(path))
    start(home(), wanted)
    until(lambda: stands(path)["s-tvd"] == "running")
    for process in (worker(tmp_path), *[p for p in ours(tmp_path) if p.cmdline()[-1] != "work"]):
        process.kill()
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert ended.counts == {"done": 1, "stopped": 1}
    (home().root / "go").touch()
    start(home(), wanted)
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert ended.counts == {"done": 2}
    assert len(run_folders(home())) == 2


def test_a_study_that_ships_is_found_by_name_until_the_home_has_its_own(written: Written, no_worker: None):
    assert [path.stem for path in shipped()] == ["first", "lora", "rules", "smoke"]
    assert len(find(home(), "first").axes["domain"]) == 3
    start(home(), study(home(), load_study(written(name="first"))))
    assert "domain" not in find(home(), "first").axes


def test_an_unknown_study_is_reported_with_the_known_ones(written: Written, no_worker: None):
    with pytest.raises(DraftbenchError, match="no study 'frist'"):
        find(home(), "frist")
    start(home(), study(home(), load_study(written(name="firts"))))
    with pytest.raises(DraftbenchError) as refused:
        find(home(), "fitrs")
    assert "did you mean 'firts'" in refused.value.fix
    assert isinstance(find(home(), "firts"), StudySpec)
    (home().root / "studies" / "broken.yaml").write_text("name: [")
    assert {row["study"]: bool(row["problem"]) for row in overview(home())} == {"broken": True, "firts": False}


@pytest.mark.slow
def test_looking_at_a_study_loads_no_torch():
    import subprocess

    code = (
        "import sys\nfrom pathlib import Path\nfrom engine.paths import home\n"
        "from engine.study.spec import load_study\n"
        "from engine.study.start import study\nstudy(home(), load_study(Path('recipes/studies/smoke.yaml')))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


def test_damaged_labels_of_a_cell_do_not_keep_the_study_from_starting(written: Written, no_worker: None):
    path = written()
    run = run_of(cells_of(path).cells[0].recipe, "done")
    (run.path / "labels.json").write_text("half a docu")
    started = start(home(), study(home(), load_study(path)))
    assert len(started.submitted) == 1
    assert study_tag("s") in read_labels(run).tags
