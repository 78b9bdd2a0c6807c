"""Sweeps: every combination is a run with a name and prompts of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ui.conftest import OpenPage
from tests.ui.launch.form_widgets import boxes, button, queued, scenario_files, widget


def test_a_sweep_queues_every_combination_under_a_name_of_its_own(page: OpenPage, tiny: None):
    shown = page("launch")
    shown.multiselect(key="losses").set_value(["forward_kl", "tvd"]).run()
    shown.multiselect(key="seeds").set_value(["0", "1", "2"]).run()
    assert button(shown, "submit-").label == "Add 6 runs to queue"
    lines = shown.code[0].value.replace("\\\n", " ").splitlines()
    button(shown, "submit-").click().run()
    assert [(r.train.loss[0].name, r.train.seed) for r in queued()] == [
        (loss, seed) for loss in ("forward_kl", "tvd") for seed in (0, 1, 2)
    ]
    assert len({r.name for r in queued()}) == 6
    assert len(lines) == 6


def test_sizes_of_the_training_set_are_an_axis_of_the_sweep(page: OpenPage, tiny: None):
    shown = page("launch", sizes="4, 2")
    assert button(shown, "submit-").label == "Add 2 runs to queue"
    button(shown, "submit-").click().run()
    assert [r.prompts.train_prompts for r in queued()] == [4, 2]


def test_each_scenario_of_a_sweep_has_training_prompts_of_its_own(page: OpenPage, tiny: None, tmp_path: Path):
    files = scenario_files(tmp_path)
    shown = page("launch")
    shown.multiselect(key="scenarios").set_value(["historical", "synthetic"]).run()
    assert "historical has no training prompts" in boxes(shown)
    shown.text_input(key="train-historical").set_value(files["historical"]).run()
    shown.text_input(key="train-synthetic").set_value(files["historical"]).run()
    assert "the same training prompts" in boxes(shown)
    shown.text_input(key="train-synthetic").set_value(files["synthetic"]).run()
    assert not shown.error
    assert f"prompts.train={files['synthetic']}" in shown.code[0].value
    button(shown, "submit-").click().run()
    assert [(r.prompts.scenario, r.prompts.train[0].path) for r in queued()] == list(files.items())
    again = page("launch", scenarios=list(files), **{f"train-{name}": path for name, path in files.items()})
    assert again.text_input(key="train-synthetic").value == files["synthetic"]
    assert button(again, "submit-").label == "Add 2 runs to queue"


def test_the_prompts_of_every_scenario_are_checked(page: OpenPage, tiny: None, tmp_path: Path):
    files = scenario_files(tmp_path)
    Path(files["synthetic"]).write_text("not json\n")
    shown = page("launch")
    shown.multiselect(key="scenarios").set_value(["historical", "synthetic"]).run()
    for name, path in files.items():
        shown.text_input(key=f"train-{name}").set_value(path).run()
    button(shown, "submit-").click().run()
    assert queued() == []
    assert any("training prompts, synthetic" in text.value for text in shown.markdown)


def test_modes_can_be_swept_with_losses(page: OpenPage, tiny: None):
    shown = page("launch", modes=["offline", "online"], losses=["forward_kl", "sft"])
    widget(shown, "train.online.replay_share").set_value(0.25).run()
    button(shown, "submit-").click().run()
    made = [(r.train.mode, r.train.loss[0].name, r.train.online.replay_share) for r in queued()]
    assert sorted(made) == [(m, loss, 0.25) for m in ("offline", "online") for loss in ("forward_kl", "sft")]


@pytest.mark.parametrize("sizes", ["9" * 5000, ", ".join(str(n) for n in range(1, 100))])
def test_sizes_that_no_training_set_has_are_refused(page: OpenPage, tiny: None, sizes: str):
    shown = page("launch", sizes=sizes)
    assert "none was taken" in boxes(shown)
    assert button(shown, "submit-").label == "Add to queue"
