"""Links to the page: what they set, and what they may not: rights, servers, keys, devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.paths import PROJECT_ROOT, home
from engine.planning import bounded_checks
from engine.runs.recipes import read_recipe
from tests.chat_server import chat_server
from tests.ui.conftest import OpenPage
from tests.ui.launch.form_widgets import boxes, button, queued, served, settings_of, switch, warnings_of, widget
from workbench.launch import parts, starting


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


def test_no_path_of_this_machine_is_in_a_shared_url(page: OpenPage):
    shown = page("launch")
    widget(shown, "train.epochs").set_value(2.5).run()
    assert str(PROJECT_ROOT) not in str(shown.query_params)


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
    assert "not the name of an environment variable" in boxes(shown)
    assert typed not in boxes(shown)
    assert typed not in shown.code[0].value
    assert typed not in str(shown.query_params)
    widget(shown, "capture.server.key_env").set_value("MY_API_KEY").run()
    assert not shown.error
    assert "capture.server.key_env=MY_API_KEY" in settings_of(shown)


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
