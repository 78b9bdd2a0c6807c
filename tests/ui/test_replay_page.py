"""Replay under AppTest: deep links, stepping, errors and escaping."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from engine.decode.events import Alternative, Fate, Round, Token
from engine.paths import Home
from engine.runs.folder import run_folders
from engine.traces.measured import traced_prompts
from engine.traces.saved import save_trace
from engine.traces.trace import Trace
from tests.ui.conftest import OpenPage

EVIL = "<img src=x onerror=alert(1)>"


def saved(home: Path, count: int = 3) -> str:
    others = tuple(Alternative(i, 0.3 - 0.02 * i, 0.01 * i, f"{EVIL}{i}") for i in range(12))
    tokens = (
        Token(5, Fate.ACCEPTED, 0, 0.4, 0.5, 0.1, 0.7, others, text=EVIL),
        Token(6, Fate.REJECTED, 1, 0.1, 0.5, 0.9, 0.4, others, text="no"),
        Token(7, Fate.DISCARDED, 2, None, 0.3, text="lost"),
        Token(0, Fate.CORRECTED, 1, 0.3, 0.0, 0.2, None, others, text="yes"),
    )
    rounds = tuple(Round(0, i, 3, tokens, 0.01, 0.03, 0.001) for i in range(count))
    return save_trace(
        Home(home), Trace("", f"title {EVIL}", f"prompt {EVIL}", {"temperature": 1.0, "draft": "d"}, rounds)
    )


def text_of(shown: AppTest) -> str:
    parts = [*shown.markdown, *shown.caption, *shown.text, *shown.error]
    return "\n".join(str(part.value) for part in parts)


def html_of(shown: AppTest) -> str:
    return "\n".join(str(part.proto.body) for part in shown.get("html"))


def test_an_empty_home_offers_one_way_on(page: OpenPage):
    shown = page("replay")
    assert [button.label for button in shown.button] == ["Start a run"]


def test_no_saved_trace_leads_to_the_live_view(page: OpenPage):
    shown = page("replay")
    shown.segmented_control[0].set_value("Saved from the live view").run()
    assert not shown.exception
    assert [button.label for button in shown.button] == ["Open Live"]


def test_prompts_are_listed_by_number_first_words_and_id(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    path = run.path / "measure" / "prompts.parquet"
    table = pd.read_parquet(path)
    _, prompt = traced_prompts(run)[0]
    table.loc[table.prompt_id == prompt, "text"] = "Why is\n the sky\u202e blue? " * 20
    table.to_parquet(path)
    box = next(box for box in page("replay", run=run.id).selectbox if box.label == "Prompt")
    assert box.value == prompt
    assert box.options[0].startswith("1 · Why is the sky")
    assert box.options[0].endswith(f"… · {prompt}")
    assert "\u202e" not in box.options[0]
    table.drop(columns="text").to_parquet(path)  # of an earlier version
    os.utime(run.summary_path)
    box = next(box for box in page("replay", run=run.id).selectbox if box.label == "Prompt")
    assert box.options[0] == f"1 · {prompt}"


def test_a_deep_link_to_a_run_restores_round_and_token(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    temperature, prompt = traced_prompts(run)[-1]
    shown = page("replay", run=run.id, temperature=str(temperature), prompt=prompt, round="1", token="0")
    assert [box.value for box in shown.selectbox][:3] == [run.id, f"{temperature:g}", prompt]
    assert shown.slider[0].value == 1
    assert shown.subheader[0].value == "Round 1"
    assert shown.segmented_control(key="token_1").value == 0


def test_stepping_forward_and_back_and_to_the_ends(page: OpenPage, finished_home: Path):
    saved(finished_home, count=4)
    trace = saved(finished_home, count=4)
    shown = page("replay", trace=trace)
    assert shown.button(key="step_Back").disabled
    for key, number in (("Forward", 1), ("Forward", 2), ("Back", 1), ("Last", 3), ("First", 0)):
        shown.button(key=f"step_{key}").click().run()
        assert not shown.exception
        assert shown.subheader[0].value == f"Round {number}"
    shown.button(key="step_Last").click().run()
    assert shown.button(key="step_Forward").disabled
    assert shown.query_params["round"] == "3"


def test_the_url_names_what_is_shown_by_default(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    temperature, prompt = traced_prompts(run)[0]
    shown = page("replay")
    named = {key: shown.query_params[key] for key in ("run", "temperature", "prompt")}
    assert named == {"run": run.id, "temperature": f"{temperature:g}", "prompt": prompt}
    assert all(f"{key}={value}" in html_of(shown) for key, value in named.items())  # the links of tokens


def test_a_saved_trace_is_opened_again_by_its_url(page: OpenPage, finished_home: Path):
    trace = saved(finished_home)
    shown = page("replay")
    shown.segmented_control[0].set_value("Saved from the live view").run()
    assert shown.query_params["trace"] == trace
    assert "run" not in shown.query_params
    assert f"trace={trace}" in html_of(shown)


def test_a_round_whose_tokens_are_lost_is_reported(page: OpenPage, finished_home: Path):
    import pandas as pd

    path = run_folders(Home(finished_home))[0].path / "measure" / "tokens.parquet"
    table = pd.read_parquet(path)
    table[table["round"] > 0].to_parquet(path, index=False)
    assert "is damaged" in page("replay").error[0].value


def test_only_a_measurement_shares_its_time_in_a_batch(page: OpenPage, finished_home: Path):
    assert "whole batch" in text_of(page("replay"))
    assert "whole batch" not in text_of(page("replay", trace=saved(finished_home)))


def test_a_refusal_shows_bars_draw_and_residual(page: OpenPage, own_folders: None, tmp_path: Path):
    shown = page("replay", trace=saved(tmp_path / "home"))
    assert "u \\= \\.90 ≥ \\.20\\: rejected" in text_of(shown)
    assert len(shown.get("plotly_chart")) == 3


@pytest.mark.parametrize(
    ("token", "charts", "words"), [("0", 2, "u \\= \\.10 \\< \\.80"), ("2", 0, "never judged"), ("3", 2, "residual")]
)
def test_each_token_of_the_round_can_be_looked_at(page: OpenPage, tmp_path: Path, token: str, charts: int, words: str):
    shown = page("replay", trace=saved(tmp_path / "home"), token=token)
    assert words in text_of(shown)
    assert len(shown.get("plotly_chart")) == charts


def test_choosing_a_token_keeps_it_in_the_url(page: OpenPage, tmp_path: Path):
    shown = page("replay", trace=saved(tmp_path / "home"))
    shown.segmented_control(key="token_0").set_value(2).run()
    assert shown.query_params["token"] == "2"
    shown.button(key="step_Forward").click().run()
    assert "token" not in shown.query_params


def test_another_run_begins_at_its_first_round(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    shown = page("replay", round="2")
    prompts = [p for t, p in traced_prompts(run) if t == traced_prompts(run)[0][0]]
    shown.selectbox(key="pick_prompt").set_value(prompts[1]).run()
    assert not shown.exception
    assert shown.slider[0].value == 0
    assert shown.query_params["prompt"] == prompts[1]


def test_a_run_without_alternatives_names_the_command(page: OpenPage, finished_home: Path):
    import pandas as pd

    run = run_folders(Home(finished_home))[0]
    path = run.path / "measure" / "tokens.parquet"
    table = pd.read_parquet(path)
    table.drop(columns=[c for c in table if c.startswith("alt_")]).to_parquet(path, index=False)
    shown = page("replay", run=run.id, temperature="1")
    assert f"draftbench measure {run.id}" in text_of(shown)


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"trace": "no-such"}, "no saved trace"),
        ({"trace": "../../etc/passwd"}, "not a valid name"),
    ],
)
def test_what_does_not_exist_is_reported_in_three_parts(
    page: OpenPage, finished_home: Path, params: dict[str, str], what: str
):
    shown = page("replay", **params)
    said = shown.error[0].value.replace("\\", "")
    assert what in said
    assert "What to do" in said


@pytest.mark.parametrize("params", [{"run": "no-such"}, {"temperature": "0.35"}, {"prompt": "nobody"}])
def test_an_address_that_names_nothing_here_still_leads_to_a_trace(
    page: OpenPage, finished_home: Path, params: dict[str, str]
):
    shown = page("replay", **params)
    ((key, value),) = params.items()
    said = shown.warning[0].value.replace("\\", "")
    assert f"{key} = {value} does not exist here; showing {shown.query_params[key]}" in said
    assert shown.subheader[0].value == "Round 0"
    assert not shown.error


@pytest.mark.parametrize(("named", "shown_round"), [("99", 2), ("-1", 0), ("²", 0), ("x", 0)])
def test_a_round_that_does_not_exist_shows_the_nearest(page: OpenPage, tmp_path: Path, named: str, shown_round: int):
    shown = page("replay", trace=saved(tmp_path / "home"), round=named, token=named)
    assert shown.subheader[0].value == f"Round {shown_round}"


def test_nothing_that_a_model_or_user_wrote_is_markup(page: OpenPage, tmp_path: Path):
    shown = page("replay", trace=saved(tmp_path / "home"))
    assert "<img" not in html_of(shown)
    assert "&lt;img" in html_of(shown)
    assert not any("<img" in str(part.value) for part in (*shown.markdown, *shown.caption))
    assert shown.text[0].value == f"prompt {EVIL}"  # st.text renders plain text


def test_a_chart_is_saved_as_svg_or_png_by_its_own_camera(page: OpenPage, tmp_path: Path):
    shown = page("replay", trace=saved(tmp_path / "home"))
    assert '"format": "svg"' in shown.get("plotly_chart")[0].proto.config
    shown.segmented_control(key="camera").set_value("PNG").run()
    assert '"format": "png"' in shown.get("plotly_chart")[0].proto.config


def without_traces(home: Path) -> str:
    """The finished run, kept as most samples are: no traced round, and no weights."""
    import shutil

    import pandas as pd

    run = run_folders(Home(home))[0]
    for name in ("rounds", "tokens"):
        path = run.path / "measure" / f"{name}.parquet"
        pd.read_parquet(path).head(0).to_parquet(path, index=False)
    shutil.rmtree(run.path / "draft")
    return run.id


def test_a_run_without_traces_is_not_what_the_page_opens_with(page: OpenPage, finished_home: Path):
    without_traces(finished_home)
    shown = page("replay")
    assert not shown.error
    assert [button.label for button in shown.button] == ["Start a run"]


def test_a_run_without_traces_that_is_asked_for_gets_advice_that_works(page: OpenPage, finished_home: Path):
    run_id = without_traces(finished_home)
    said = page("replay", run=run_id).error[0].value.replace("\\", "")
    assert "has no traces" in said
    assert "draftbench measure" not in said  # it has no weights to measure
    assert f"draftbench run {finished_home / 'runs' / run_id / 'config.yaml'}" in said


def test_two_traces_of_one_prompt_have_a_name_and_an_address_each(page: OpenPage, tmp_path: Path):
    first, second = saved(tmp_path / "home"), saved(tmp_path / "home")
    for trace in (first, second):
        shown = page("replay", trace=trace)
        box = shown.selectbox(key="pick_trace")
        assert box.value == trace
        assert len(set(box.options)) == 2
        assert shown.query_params["trace"] == trace
