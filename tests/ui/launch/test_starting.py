"""What the page puts into the queue, that it does so once, and what it says of it before and after."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from engine.jobs import queue
from engine.paths import home
from engine.runs.folder import RunFolder, run_folders
from engine.runs.recipes import read_recipe
from tests.ui.conftest import OpenPage
from tests.ui.launch.form_widgets import button, queued, widget
from workbench.launch import starting


def test_clicking_twice_queues_one_run(page: OpenPage, tiny: None, no_worker: list[str]):
    shown = page("launch")
    pressed = button(shown, "submit-")
    pressed.click().run()
    assert not shown.exception
    assert len(queued()) == 1
    pressed.click().run()  # what a second click sends: the button as it was before the first
    assert len(queued()) == 1
    assert len(run_folders(home())) == 1
    assert len(no_worker) == 1
    assert shown.success
    assert button(shown, "submit-").key != pressed.key
    button(shown, "submit-").click().run()  # on purpose
    assert len(queued()) == 2


def test_a_failed_check_keeps_the_run_from_the_queue(page: OpenPage, tiny: None):
    shown = page("launch")
    widget(shown, "draft.layers").set_value("9").run()
    button(shown, "submit-").click().run()
    assert queued() == []
    assert any("Not started" in box.value for box in shown.error)
    assert any("the target has 4 layers" in text.value.replace("\\", "") for text in shown.markdown)


def test_the_command_line_shown_gives_the_run_that_is_queued(page: OpenPage, tiny: None):
    shown = page("launch")
    widget(shown, "train.epochs").set_value(1.5).run()
    widget(shown, "notes").set_value("it's $5; a: b").run()
    widget(shown, "measure.temperatures").set_value("0, 0.5").run()
    widget(shown, "target.dtype").set_value("bfloat16").run()
    words = shlex.split(shown.code[-1].value.replace("\\\n", " "))
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert len(settings) == 4
    button(shown, "submit-").click().run()
    assert queued() == [read_recipe(home(), str(starting.RECIPES / "quickstart.yaml"), settings, skip_bad=False)]


def test_the_estimate_names_the_run_it_comes_from(page: OpenPage, finished_home: Path):
    run = RunFolder.open(home(), "latest")
    shown = page("launch", **{"from": run.id})
    wording = " ".join(caption.value for caption in shown.caption).replace("\\", "")
    assert f"Scaled from run {run.id}" in wording
    assert {metric.label for metric in shown.metric} == {"Time, about", "Disk, at most", "Memory, about"}


def test_without_an_earlier_run_no_time_is_invented(page: OpenPage, tiny: None):
    shown = page("launch")
    assert next(m.value for m in shown.metric if m.label.startswith("Time")) == "not known"
    assert any("no earlier run has trained a draft for this target here" in caption.value for caption in shown.caption)


def test_a_trial_of_five_seconds_gives_the_first_time(page: OpenPage, tiny: None):
    shown = page("launch")
    next(button for button in shown.button if button.label == "Try it for five seconds").click().run()
    assert not shown.error
    assert next(m.value for m in shown.metric if m.label.startswith("Time")) != "not known"
    assert any("Scaled from five seconds of target and draft" in caption.value for caption in shown.caption)


def test_what_was_started_is_shown_until_it_has_ended_or_another_start_is_chosen(
    page: OpenPage, tiny: None, finished_home: Path
):
    shown = page("launch")
    button(shown, "submit-").click().run()
    assert "In the queue" in shown.success[0].value
    queue.waiting(home())[0].set_status(state="done")
    shown.run()
    assert not shown.success
    button(shown, "submit-").click().run()
    assert shown.success
    shown.query_params["from"] = RunFolder.open(home(), "latest~1").id
    shown.run()
    assert not shown.success


def test_a_time_without_all_its_parts_is_a_least(page: OpenPage, finished_home: Path):
    run = RunFolder.open(home(), "latest")
    run.set_status(state="cancelled")
    shown = page("launch", **{"from": run.id})
    assert any(metric.label == "Time, at least" for metric in shown.metric)
    assert any("Not counted: measurement" in caption.value for caption in shown.caption)


def test_an_estimate_of_several_losses_names_the_one_it_is_of(page: OpenPage, finished_home: Path):
    shown = page("launch", **{"from": RunFolder.open(home(), "latest").id, "losses": ["tvd", "sft"]})
    shown.button(key="check").click().run()
    assert any("Estimated with the loss tvd" in caption.value for caption in shown.caption)


def test_where_runs_are_worked_on_is_chosen_by_hand(page: OpenPage, tiny: None):
    """A place is believed when it exists; until one is typed, nothing can be started."""
    pytest.importorskip("ray")
    shown = page("launch", where="ray", place="ray://stranger:1")
    assert shown.radio(key="launch:where").value == "This machine, one run after another"
    assert "--on" not in shown.code[0].value
    shown = shown.radio(key="launch:where").set_value("A cluster").run()
    assert button(shown, "submit-").disabled
    shown = shown.text_input(key="launch:place").set_value("rai").run()
    assert button(shown, "submit-").disabled
    assert any("there is no place" in found.value for found in shown.error)
    shown = shown.text_input(key="launch:place").set_value("ray://127.0.0.1:10001").run()
    assert not button(shown, "submit-").disabled
    assert "--queue --on ray://127.0.0.1:10001" in shown.code[0].value
