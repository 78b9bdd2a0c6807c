"""The form: a widget for every key, filled from a recipe or a run, nothing typed is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.paths import home
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from tests.ui.conftest import OpenPage
from tests.ui.launch.form_widgets import boxes, button, drawn, queued, settings_of, switch, widget
from workbench.launch import starting
from workbench.launch.form import field_at, leaves, shape_of


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


def test_what_a_recipe_says_of_itself_is_escaped(page: OpenPage, tiny: None):
    wording = [caption.value for caption in page("launch").caption]
    assert any("\\<b\\>tiny" in text for text in wording)


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
