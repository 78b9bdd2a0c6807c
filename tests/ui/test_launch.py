"""The Launch page: filled from the schema, a recipe or a run; what it puts into the queue, and that it does so once."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from engine.config.schema import Recipe
from engine.jobs import queue
from engine.paths import PROJECT_ROOT, home
from engine.planning import bounded_checks
from engine.runs.folder import RunFolder, run_folders
from engine.runs.recipes import read_recipe
from tests.chat_server import chat_server
from tests.ui.conftest import OpenPage
from workbench.launch import parts, starting
from workbench.launch.form import field_at, leaves, shape_of
from workbench.shared import queries


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are queued, and nobody works on them."""
    woken: list[str] = []
    monkeypatch.setattr(queue, "wake", lambda where: woken.append(str(where.root)))
    monkeypatch.setattr(queries, "wake_all", lambda where: None)
    return woken


@pytest.fixture
def tiny(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recipes on offer are the tiny one, under the name of the first."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    values = yaml.safe_load(recipe.read_text())
    for name in ("train", "heldout"):
        values["prompts"][name] = str(recipe.with_name(f"{name}.jsonl"))
    (folder / "quickstart.yaml").write_text("# A <b>tiny</b> one.\n" + yaml.safe_dump(values))
    monkeypatch.setattr(starting, "RECIPES", folder)


def widget(shown: AppTest, key: str) -> Any:
    """The widget of a recipe's key, such as `train.epochs` or `train.loss.0.name`."""
    kinds = ("text_input", "number_input", "selectbox", "toggle", "multiselect", "text_area")
    for kind in kinds:
        for found in shown.get(kind):
            if found.key and found.key.startswith("form:") and found.key.endswith(f":{key}"):
                return found
    raise AssertionError(f"no widget for {key}")


def button(shown: AppTest, start: str) -> Any:
    return next(found for found in shown.button if found.key and found.key.startswith(start))


def switch(shown: AppTest, part: str) -> Any:
    """The switch of an optional part such as `capture.server`."""
    return next(found for found in shown.toggle if (found.key or "").endswith(f":use:{part}"))


def drawn(shown: AppTest, start: str) -> set[str]:
    """Keys of the recipe that have a widget now and begin so."""
    kinds = ("text_input", "number_input", "selectbox", "toggle")
    keys = {str(found.key).rpartition(":")[2] for kind in kinds for found in shown.get(kind) if found.key}
    return {key for key in keys if key.startswith(start)}


def settings_of(shown: AppTest) -> list[str]:
    """What follows each `--set` of the command line shown."""
    words = shlex.split(shown.code[-1].value.replace("\\\n", " "))
    return [words[i + 1] for i, word in enumerate(words) if word == "--set"]


def queued() -> list[Recipe]:
    return [run.recipe() for run in queue.waiting(home())]


def boxes(shown: AppTest) -> str:
    return "\n".join(box.value for box in shown.error)


def test_every_key_of_the_schema_has_a_widget_with_the_recipes_value(page: OpenPage):
    shown = page("launch", recipe="from_layers", modes=["online", "on_policy"])
    for name in ("train.selection", "capture.server", "draft.lora"):
        switch(shown, name).set_value(True)
    shown.run()
    for dotted in leaves():
        if shape_of(field_at(dotted)).kind != "sections" and dotted != "draft.checkpoint":
            assert widget(shown, dotted).help.endswith(f"`{dotted}`")
    assert widget(shown, "train.epochs").value == 5
    assert widget(shown, "measure.num_draft_tokens").max == 32
    assert widget(shown, "train.loss.0.name").options == [
        "forward_kl",
        "reverse_kl",
        "jsd",
        "tvd",
        "tvd_pp",
        "neg_log_acceptance",
        "lk_hybrid",
        "argmax_ce",
        "sft",
    ]
    assert widget(shown, "prompts.train.0.path").value == "sample_data/prompts/biology/train.jsonl"
    assert widget(shown, "prompts.train.0.split").value == "train"


def test_another_recipe_fills_the_form_anew(page: OpenPage):
    shown = page("launch", recipe="jsd")
    assert widget(shown, "train.loss.0.name").value == "jsd"
    assert widget(shown, "name").value == "jsd"
    shown.selectbox(key="recipe").set_value("sft").run()
    assert widget(shown, "train.loss.0.name").value == "sft"
    assert "draftbench run recipes/sft.yaml" in shown.code[0].value
    assert "set" not in shown.query_params


def test_an_earlier_run_fills_the_form(page: OpenPage, finished_home: Path):
    run = RunFolder.open(home(), "latest")
    shown = page("launch", **{"from": run.id})
    assert widget(shown, "name").value == "tiny"
    assert widget(shown, "draft.layers").value == "0, 3"
    assert str(run.path / "config.yaml") in shown.code[0].value
    button(shown, "submit-").click().run()
    assert queued() == [run.recipe()]


@pytest.mark.parametrize("bad", ["nothing-like-it", "../../etc", "<img src=x onerror=alert(1)>"])
def test_an_unknown_run_or_recipe_is_an_error_in_words(page: OpenPage, bad: str):
    for name in ("from", "recipe"):
        shown = page("launch", **{name: bad})
        if name == "from":
            assert shown.error
            assert "<img" not in boxes(shown).replace("\\<img", "")


def test_a_bad_value_is_named_and_nothing_can_be_submitted(page: OpenPage):
    shown = page("launch", recipe="from_layers")
    widget(shown, "name").set_value("no spaces allowed").run()
    assert "name: String should match pattern" in boxes(shown).replace("\\", "")
    assert "What to do" in boxes(shown)
    assert not [found for found in shown.button if (found.key or "").startswith("submit-")]
    widget(shown, "name").set_value("fine").run()
    widget(shown, "draft.layers").set_value("four").run()
    assert "draft.layers" in boxes(shown).replace("\\", "")
    widget(shown, "draft.layers").set_value("3").run()
    widget(shown, "prompts.domain").set_value("x").run()
    assert not shown.error


def test_parts_that_do_not_fit_together_are_refused(page: OpenPage):
    shown = page("launch")
    widget(shown, "capture.signal").set_value("none").run()
    assert "which the loss forward" in boxes(shown)


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


def test_what_was_changed_is_in_the_url_and_restored_from_it(page: OpenPage):
    shown = page("launch")
    widget(shown, "train.epochs").set_value(2.5).run()
    widget(shown, "train.loss.0.name").set_value("tvd").run()
    assert sorted(shown.query_params["set"]) == ["train.epochs=2.5", "train.loss=tvd"]
    again = page("launch", set=shown.query_params["set"])
    assert widget(again, "train.epochs").value == 2.5
    assert widget(again, "train.loss.0.name").value == "tvd"


def test_a_senseless_url_is_an_error_and_the_form_stays(page: OpenPage):
    shown = page("launch", set=["train=5"])
    assert shown.error
    assert widget(shown, "train.epochs").value == 5


def test_losses_are_added_and_taken_out(page: OpenPage):
    shown = page("launch")
    added = next(b for b in shown.button if b.key and b.key.endswith("train.loss#add"))
    added.click().run()
    widget(shown, "train.loss.1.name").set_value("sft").run()
    widget(shown, "train.loss.1.weight").set_value(0.5).run()
    assert "train.loss=[forward_kl, {name: sft, weight: 0.5}]" in shown.code[0].value
    next(b for b in shown.button if b.key and b.key.endswith("train.loss#remove0")).click().run()
    assert "'train.loss={name: sft, weight: 0.5}'" in shown.code[0].value


def test_a_stream_that_cannot_choose_a_vocabulary_leads_out_by_a_button(page: OpenPage, tiny: None):
    shown = page("launch", recipe="from_layers", set=["draft.vocabulary=64", "name=kept"])
    for _ in range(2):  # again from where the address is already as the button makes it
        widget(shown, "train.mode").set_value("online").run()
        widget(shown, "train.online.stream").set_value("decode").run()
        assert "set train.online.stream to replay" in boxes(shown).replace("\\", "")
        button(shown, "way-out:train.online.stream").click().run()
        assert not shown.error
        assert set(settings_of(shown)) >= {"train.online.stream=replay", "draft.vocabulary=64", "name=kept"}
    assert not [found for found in shown.button if (found.key or "").startswith("way-out:")]


def test_a_checkpoint_is_asked_for_when_it_is_wanted(page: OpenPage, finished_home: Path):
    shown = page("launch", **{"from": RunFolder.open(home(), "latest").id})
    widget(shown, "draft.init").set_value("checkpoint").run()
    assert "draft.checkpoint is given exactly when" in boxes(shown).replace("\\", "")
    chosen = widget(shown, "draft.checkpoint")
    chosen.set_value(chosen.options[0]).run()
    assert not shown.error
    assert "draft.checkpoint=" in shown.code[0].value


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


def test_what_a_recipe_says_of_itself_is_escaped(page: OpenPage, tiny: None):
    wording = [caption.value for caption in page("launch").caption]
    assert any("\\<b\\>tiny" in text for text in wording)


def test_no_path_of_this_machine_is_in_a_shared_url(page: OpenPage):
    shown = page("launch")
    widget(shown, "train.epochs").set_value(2.5).run()
    assert str(PROJECT_ROOT) not in str(shown.query_params)


# --- scenarios, links, what was started


def scenario_files(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("historical", "synthetic"):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f'{{"prompt": "{name} question {i} about the number {i}?"}}\n' for i in range(12)))
        found[name] = str(path)
    return found


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


def test_a_link_with_settings_is_followed_within_the_session_too(page: OpenPage):
    shown = page("launch")
    widget(shown, "train.epochs").set_value(2.5).run()
    shown.query_params["set"] = ["train.seed=3"]  # as a link of Findings does
    shown.run()
    assert (widget(shown, "train.seed").value, widget(shown, "train.epochs").value) == (3, 5)
    widget(shown, "train.epochs").set_value(4).run()
    assert sorted(shown.query_params["set"]) == ["train.epochs=4.0", "train.seed=3"]
    del shown.query_params["set"]  # and a link without any
    shown.run()
    assert (widget(shown, "train.seed").value, widget(shown, "train.epochs").value) == (0, 5)


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


# --- modes, token selection, a server


def test_settings_of_a_mode_are_shown_where_it_is_chosen_or_swept(page: OpenPage):
    shown = page("launch")
    assert not drawn(shown, "train.online.") | drawn(shown, "train.on_policy.")
    widget(shown, "train.mode").set_value("on_policy").run()
    assert drawn(shown, "train.on_policy.")
    assert not drawn(shown, "train.online.")
    shown.multiselect(key="modes").set_value(["online", "on_policy"]).run()
    assert drawn(shown, "train.on_policy.")
    assert drawn(shown, "train.online.")


def test_a_switch_of_mode_loses_nothing_that_was_typed(page: OpenPage, tiny: None):
    shown = page("launch")
    widget(shown, "train.mode").set_value("online").run()
    widget(shown, "train.online.update_interval").set_value(3).run()
    widget(shown, "train.online.stream").set_value("replay").run()
    widget(shown, "train.mode").set_value("offline").run()
    assert settings_of(shown) == []  # the settings of a mode that is not chosen do not travel along
    widget(shown, "train.mode").set_value("online").run()
    assert widget(shown, "train.online.update_interval").value == 3
    assert settings_of(shown) == ["train.mode=online", "train.online.stream=replay", "train.online.update_interval=3"]
    button(shown, "submit-").click().run()
    made = read_recipe(home(), str(starting.RECIPES / "quickstart.yaml"), settings_of(shown), skip_bad=False)
    assert queued() == [made]
    assert (made.train.mode, made.train.online.update_interval) == ("online", 3)


def test_modes_can_be_swept_with_losses(page: OpenPage, tiny: None):
    shown = page("launch", modes=["offline", "online"], losses=["forward_kl", "sft"])
    widget(shown, "train.online.replay_share").set_value(0.25).run()
    button(shown, "submit-").click().run()
    made = [(r.train.mode, r.train.loss[0].name, r.train.online.replay_share) for r in queued()]
    assert sorted(made) == [(m, loss, 0.25) for m in ("offline", "online") for loss in ("forward_kl", "sft")]


def test_what_will_happen_is_reported_for_each_mode(page: OpenPage):
    shown = page("launch", recipe="from_layers")
    for mode, words in (
        ("offline", "epochs"),
        ("online", "are a stream"),
        ("on_policy", "answers of the draft itself"),
    ):
        widget(shown, "train.mode").set_value(mode).run()
        assert not shown.error, boxes(shown)
        assert any(words in text.value for text in shown.markdown), mode


def test_an_adapter_is_off_until_it_is_switched_on(page: OpenPage, finished_home: Path):
    shown = page("launch", **{"from": RunFolder.open(home(), "latest").id})
    assert not drawn(shown, "draft.lora.")
    switch(shown, "draft.lora").set_value(True).run()
    (setting,) = settings_of(shown)
    made = read_recipe(home(), str(starting.RECIPES / "quickstart.yaml"), [setting], skip_bad=False)
    assert made.draft.lora is not None, "also with nothing but defaults"
    widget(shown, "draft.lora.rank").set_value(4).run()
    assert "draft.lora.rank=4" in settings_of(shown)
    switch(shown, "draft.lora").set_value(False).run()
    assert settings_of(shown) == []


def test_token_selection_is_off_until_it_is_switched_on(page: OpenPage, finished_home: Path):
    run = RunFolder.open(home(), "latest")
    shown = page("launch", **{"from": run.id})
    assert not drawn(shown, "train.selection.")
    switch(shown, "train.selection").set_value(True).run()
    widget(shown, "train.selection.share").set_value(0.4).run()
    assert "train.selection.reference is given exactly when" in boxes(shown).replace("\\", "")
    widget(shown, "train.selection.reference").set_value(run.id).run()
    assert settings_of(shown) == ["train.selection.share=0.4", f"train.selection.reference={run.id}"]
    switch(shown, "train.selection").set_value(False).run()
    assert settings_of(shown) == []
    switch(shown, "train.selection").set_value(True).run()
    assert widget(shown, "train.selection.share").value == 0.4


def served(shown: AppTest, address: str = "http://127.0.0.1:8000/v1") -> AppTest:
    switch(shown, "capture.server").set_value(True).run()
    widget(shown, "capture.server.base_url").set_value(address).run()
    widget(shown, "capture.server.model").set_value("some-model").run()
    widget(shown, "capture.signal").set_value("none").run()
    return widget(shown, "train.loss.0.name").set_value("sft").run()


def test_a_server_is_named_in_the_recipe_and_taken_out_again(page: OpenPage, tiny: None):
    shown = served(page("launch"))
    assert not shown.error
    assert "capture.server.model=some-model" in settings_of(shown)
    made = read_recipe(home(), str(starting.RECIPES / "quickstart.yaml"), settings_of(shown), skip_bad=False)
    assert made.capture.server is not None
    assert made.capture.server.base_url == "http://127.0.0.1:8000/v1"
    assert not [setting for setting in shown.query_params["set"] if "server" in setting]
    switch(shown, "capture.server").set_value(False).run()
    assert not [setting for setting in settings_of(shown) if "server" in setting]


@pytest.mark.parametrize("typed", ["sk-proj-1a2b3c", "abc123def", "gsk_live0Secret"])
def test_a_key_that_is_typed_where_its_name_belongs_goes_nowhere(
    page: OpenPage, tiny: None, monkeypatch: pytest.MonkeyPatch, typed: str
):
    monkeypatch.setattr(parts, "key_names", lambda: [typed, "MY_API_KEY"])  # AppTest can type nothing else there
    shown = served(page("launch"))
    widget(shown, "capture.server.key_env").set_value(typed).run()
    assert "no name of an environment variable" in boxes(shown)
    assert typed not in boxes(shown)
    assert typed not in shown.code[0].value
    assert typed not in str(shown.query_params)
    widget(shown, "capture.server.key_env").set_value("MY_API_KEY").run()
    assert not shown.error
    assert "capture.server.key_env=MY_API_KEY" in settings_of(shown)


# --- links by strangers


def warnings_of(shown: AppTest) -> str:
    return "\n".join(box.value for box in shown.warning).replace("\\", "")


def test_a_link_gives_no_right_and_names_no_server_and_the_page_says_so(page: OpenPage, tiny: None):
    asked = [
        "target.trust_remote_code=true",
        "capture.server.base_url=http://127.0.0.1:9/v1",
        "capture.server.model=m",
        "capture.server.key_env=MY_API_KEY",
        "train.epochs=3",
    ]
    shown = page("launch", set=asked)
    assert widget(shown, "train.epochs").value == 3
    assert widget(shown, "target.trust_remote_code").value is False
    assert switch(shown, "capture.server").value is False
    assert settings_of(shown) == ["train.epochs=3.0"]
    assert shown.query_params["set"] in ("train.epochs=3.0", ["train.epochs=3.0"])
    assert "This link also asked for" in warnings_of(shown)
    for words in ("target.trust_remote_code=true", "http://127.0.0.1:9/v1", "MY_API_KEY"):
        assert words in shown.code[0].value
    widget(shown, "train.epochs").set_value(2).run()
    assert "This link also asked for" in warnings_of(shown)
    button(shown, "submit-").click().run()
    [made] = queued()
    assert not made.target.trust_remote_code
    assert made.capture.server is None


def test_what_is_set_by_hand_and_is_a_right_is_not_in_the_address(page: OpenPage, tiny: None):
    shown = page("launch")
    widget(shown, "target.trust_remote_code").set_value(True).run()
    assert settings_of(shown) == ["target.trust_remote_code=true"]
    assert "set" not in shown.query_params
    assert widget(shown, "target.trust_remote_code").value is True
    button(shown, "submit-").click().run()
    assert queued()[0].target.trust_remote_code


def test_what_a_link_names_is_looked_at_only_after_a_click(page: OpenPage, tiny: None, monkeypatch: pytest.MonkeyPatch):
    looked: list[Any] = []
    ask = bounded_checks.HELPERS.ask
    monkeypatch.setattr(bounded_checks.HELPERS, "ask", lambda work: (looked.append(work["kind"]), ask(work))[1])
    shown = page("launch", set=["train.epochs=3"])
    assert not shown.metric
    assert any("press **Check**" in found.value for found in shown.caption)
    widget(shown, "train.epochs").set_value(2).run()
    assert looked == []
    shown.button(key="check").click().run()
    assert set(looked) == {"checks", "estimate"}
    assert {metric.label for metric in shown.metric} >= {"Disk, at most"}
    widget(shown, "train.epochs").set_value(1).run()
    assert shown.metric
    assert page("launch").metric, "without a link there is nothing to wait for"
    assert not page("launch", sizes="2, 4").metric


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "pipe"])
def test_a_device_or_a_pipe_is_no_prompt_file(page: OpenPage, tiny: None, tmp_path: Path, name: str):
    if name == "pipe":
        name = str(tmp_path / "pipe")
        os.mkfifo(name)
    shown = page("launch", set=[f"prompts.train={name}"])
    assert "is neither a file nor a folder" in boxes(shown).replace("\\", "")
    assert not [found for found in shown.button if (found.key or "").startswith("submit-")]


def test_a_check_that_does_not_end_is_a_failed_check(page: OpenPage, tiny: None, monkeypatch: pytest.MonkeyPatch):
    shown = page("launch")
    monkeypatch.setattr(bounded_checks.HELPERS, "seconds", 0.0)
    shown.button(key="check").click().run()
    assert any("not finished after 0 s" in text.value.replace("\\", "") for text in shown.markdown)
    button(shown, "submit-").click().run()
    assert queued() == []


def test_a_key_is_sent_to_a_server_only_after_the_pair_is_allowed(
    page: OpenPage, tiny: None, monkeypatch: pytest.MonkeyPatch
):
    with chat_server() as server:
        monkeypatch.setenv("MY_API_KEY", "s3cret")
        shown = served(page("launch"), server.base_url)
        widget(shown, "capture.server.key_env").set_value("MY_API_KEY").run()
        for press in ("check", "submit-"):
            button(shown, press).click().run()
            assert "The value of MY_API_KEY would be sent to http://127.0.0.1" in warnings_of(shown)
            assert server.looks == 0
            assert queued() == []
        shown.button(key="allow-key").click().run()
        assert server.looks
        assert "would be sent" not in warnings_of(shown)
        assert any("has no model 'some-model'" in text.value.replace("\\", "") for text in shown.markdown)
    assert (home().root / "allowed-keys.json").exists()


@pytest.mark.parametrize("sizes", ["9" * 5000, ", ".join(str(n) for n in range(1, 100))])
def test_sizes_that_no_training_set_has_are_refused(page: OpenPage, tiny: None, sizes: str):
    shown = page("launch", sizes=sizes)
    assert "none was taken" in boxes(shown)
    assert button(shown, "submit-").label == "Add to queue"


@pytest.mark.parametrize(
    "setting",
    [
        "train.seed=" + "9" * 400,
        "train.seed=99999999999999999999",
        "train.epochs=1e308",
        "capture.seed=18446744073709551615",
        "tags=" + "[" * 500,
        "notes='\u202e\x9b'",
        "train.max_steps=" + "1" * 1900,
    ],
)
def test_no_link_breaks_the_page(page: OpenPage, tiny: None, setting: str):
    shown = page("launch", set=[setting])
    assert not shown.exception
    assert widget(shown, "train.epochs")


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
