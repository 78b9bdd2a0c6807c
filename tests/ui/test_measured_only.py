"""Runs that only measured, on the pages: shown as what they are, and never as a trained draft."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.paths import Home
from engine.records.status import Status
from engine.runs.as_it_is import recipe_as_it_is
from engine.runs.execution import execute
from engine.runs.folder import RunFolder
from engine.runs.process import now, process_identity
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import finished_id
from tests.unit.cli.test_measure_only import TINY
from tests.unit.conftest import quick


def measured_only(home: Path, recipe: Path, target: Path, draft: str | None) -> RunFolder:
    settings = [f"{key}={value}" for key, value in TINY.items()]
    made = recipe_as_it_is(Home(home), str(target), [str(recipe.parent / "heldout.jsonl")], draft, settings)
    run = RunFolder.create(Home(home), made)
    with quick():
        execute(Home(home), run, quiet=True)
    assert Status.read(run.path).state == "done"  # type: ignore[union-attr]
    return run


@pytest.fixture
def alone(finished_home: Path, recipe: Path, tiny_target_folder: Path) -> RunFolder:
    return measured_only(finished_home, recipe, tiny_target_folder, None)


def words(test: Any) -> str:
    parts = [*test.markdown, *test.caption, *test.info, *test.success, *test.warning, *test.error]
    return " ".join(str(part.value) for part in parts).replace("\\", "")


def test_a_target_alone_on_every_page_that_lists_runs(page: OpenPage, finished_home: Path, alone: RunFolder):
    run = page("run", run=alone.id)
    text = words(run)
    assert "Not decided yet:" in text
    assert "no draft was measured" in text
    assert "measured; nothing was trained" in text
    assert [metric.label for metric in run.metric] == [
        "Plain decoding, tokens/s",
        "Transformers' own generate, tokens/s",
    ]
    assert not {"Export", "Serve"} & {option for control in run.get("button_group") for option in control.options}
    page("runs")
    compare = page("compare", runs=[finished_id(finished_home), alone.id])
    assert not compare.exception
    home = page("home", measured=alone.id)
    assert "plain decoding gives" in words(home)
    assert len([metric for metric in home.metric if metric.label.startswith("acceptance")]) == 1  # the trained one's


@pytest.mark.parametrize("state", ["done", "cancelled", "running"])
@pytest.mark.parametrize("view", ["Log", "Configuration", "Origin", "Files", "Labels"])
def test_no_part_of_its_page_speaks_of_a_training(page: OpenPage, alone: RunFolder, view: str, state: str):
    me = process_identity()
    if state != "done":
        alone.set_status(state=state, **me, stop_asked_at=now() if state == "running" else None)
        alone.summary_path.unlink()
    test = page("run", run=alone.id, view=view)
    helps = " ".join(button.help for button in test.button)
    for word in ("checkpoint", "during training", "final weights", "trained and measured"):
        assert word not in words(test) + helps


def test_a_draft_as_it_is_is_no_best_draft(page: OpenPage, finished_home: Path, recipe: Path, tiny_target_folder: Path):
    trained = finished_id(finished_home)
    run = measured_only(finished_home, recipe, tiny_target_folder, trained)
    text = words(page("run", run=run.id))
    assert "measured; nothing was trained" in text
    assert "by training" not in text
    explorer = page("explorer")
    assert "1 run that measured a draft as it is and trained none: left out." in words(explorer)
    points = "".join(chart.proto.spec for chart in explorer.get("plotly_chart"))
    assert (trained in points, run.id in points) == (True, False)
    for baseline in (trained, run.id):  # its own rates are measured, whichever way round
        compared = page("compare", runs=[trained, run.id], baseline=baseline)
        assert "was not measured at" not in words(compared) + " ".join(box.value for box in compared.warning)
    assert run.id not in words(page("home"))
    page("launch", **{"from": run.id})


def test_launch_says_that_nothing_is_trained_and_takes_training_prompts(
    page: OpenPage, finished_home: Path, alone: RunFolder, tmp_path: Path
):
    launch = page("launch", **{"from": alone.id})
    text = words(launch)
    assert "The target is measured as it is: nothing is trained." in text
    assert "The speed of plain decoding, and of Transformers' own, is measured" in text
    assert "A draft learns" not in text
    add = next(found for found in launch.button if (found.key or "").endswith(":prompts.train#add"))
    add.click().run()
    assert not launch.exception
    remove = next(found for found in launch.button if (found.key or "").endswith(":prompts.train#remove0"))
    remove.click().run()
    assert not launch.exception
    assert not any((found.key or "").endswith(":prompts.train#remove0") for found in launch.button)


def test_launch_does_not_try_the_training_of_a_run_that_only_measures(
    page: OpenPage, finished_home: Path, alone: RunFolder
):
    for run in (finished_home / "runs").iterdir():
        if run.name != alone.id:
            shutil.rmtree(run)
    launch = page("launch", **{"from": alone.id})
    assert "no earlier run has trained a draft" in words(launch)
    assert "Try it for five seconds" not in [button.label for button in launch.button]
