"""Learn and Findings under AppTest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs

import pytest
import yaml

from engine.catalogue import LOSSES, Loss
from engine.config.schema import TrainSpec
from engine.fileio import write_json
from engine.findings.claims import CLAIMS
from engine.paths import Home
from engine.runs.folder import RunFolder, run_folders
from tests.ui.conftest import OpenPage
from workbench.learn.text import TOPICS


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_opens_by_its_link(page: OpenPage, topic: str):
    shown = page("learn", topic=topic)
    assert shown.header[0].value == TOPICS[topic]


def test_an_unknown_topic_shows_the_first(page: OpenPage):
    assert page("learn", topic="nonsense").header[0].value == TOPICS["words"]


def test_a_topic_that_is_chosen_goes_into_the_url(page: OpenPage):
    shown = page("learn")
    shown.segmented_control(key="chosen_topic").set_value("losses").run()
    assert shown.query_params["topic"] == "losses"
    assert len(shown.latex) == len(LOSSES)


def test_a_loss_without_a_source_shows_none(page: OpenPage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LOSSES, "mine", Loss("mine", "Mine", "A loss of my own", "p - q"))
    shown = page("learn", topic="losses")
    assert any("A loss of my own" in text.value for text in shown.markdown)
    assert "Source:" not in [caption.value.strip() for caption in shown.caption]


def test_the_topic_of_modes_has_every_mode_with_its_formula(page: OpenPage):
    shown = page("learn", topic="modes")
    wording = " ".join(part.value for part in shown.markdown)
    for mode in get_args(TrainSpec.model_fields["mode"].annotation):
        assert f"`train.mode: {mode}`" in wording
    assert any("min" in formula.value and "accepted" in formula.value for formula in shown.latex)


def test_the_calculator_says_when_it_does_not_pay(page: OpenPage):
    shown = page("learn", topic="speed", alpha="0.28", gamma="3", c="0.27")
    assert {metric.label: metric.value for metric in shown.metric}["Speed-up"] == "0.76x"
    assert "gamma 1 would gain" in shown.warning[0].value
    shown.slider(key="alpha").set_value(0.9).run()
    assert not shown.warning


def twin(home: Path, run: RunFolder, name: str, loss: str) -> None:
    """A copy of the finished run under another loss, as if it had been trained so."""
    folder = Path(shutil.copytree(run.path, home / "runs" / name))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["train"]["loss"] = loss
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def test_findings_without_runs_say_what_is_missing(page: OpenPage):
    shown = page("findings")
    assert len([b for b in shown.button if b.label == "Start a run"]) == 1
    wording = [part.value for part in shown.markdown if "not enough runs" in part.value]
    assert len(wording) == len(CLAIMS)  # one sentence a claim
    assert all("there are no two runs that differ in this alone" in line for line in wording)


def test_the_paper_is_named_and_linked(page: OpenPage):
    assert any("https://arxiv.org/abs/2503.07807" in part.value for part in page("findings").caption)


def test_what_a_claim_rests_on_is_drawn_when_it_is_asked_for(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    twin(finished_home, run, "black", "sft")
    closed, opened = page("findings"), page("findings", open_white_box="true")
    assert len(opened.get("plotly_chart")) == len(closed.get("plotly_chart")) + 1
    assert len(opened.dataframe) == len(closed.dataframe) + 1


def test_one_run_asks_for_its_counterpart(page: OpenPage, finished_home: Path):
    shown = page("findings", open_white_box="true")
    run = run_folders(Home(finished_home))[0]
    lines = [code.value for code in shown.code]
    assert f"draftbench run {run.path / 'config.yaml'} --set train.loss=sft" in lines
    assert any("1 run took part" in part.value for part in shown.caption)


def test_a_pair_of_runs_is_measured_and_shown(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    twin(finished_home, run, "black", "sft")
    shown = page("findings", open_white_box="true", open_white_box_runs="true")
    (table,) = [
        frame.value for frame in shown.dataframe if {"forward_kl (white box)", "runs", "where"} <= set(frame.value)
    ]
    assert list(table["T"]) == ["0", "1"]
    assert set(table["seeds"]) == {1}
    assert table["runs"][0] == f"/compare?runs=black&runs={run.id}"
    assert set(table["verdict"]) == {"not enough runs"}  # the same weights: no difference
    (runs,) = [frame.value for frame in shown.dataframe if "run" in frame.value]
    assert list(runs["run"]) == ["/run?run=black", f"/run?run={run.id}"]


def test_the_study_that_would_decide_is_shown_and_saved(page: OpenPage, finished_home: Path):
    shown = page("findings", open_white_box="true")
    recipes = [yaml.safe_load(code.value) for code in shown.code if code.language == "yaml"]
    losses = [recipe["axes"].get("loss") for recipe in recipes]
    assert ["sft", "forward_kl"] in losses
    assert len([b for b in shown.get("download_button") if b.proto.label.endswith(".yaml")]) == len(recipes)


def test_the_runs_of_one_study_can_be_chosen(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    twin(finished_home, run, "black", "sft")
    write_json(finished_home / "runs" / "black" / "labels.json", {"tags": ["study:mine"]})
    assert any("2 runs took part" in part.value for part in page("findings").caption)
    assert any("1 run took part" in part.value for part in page("findings", study="mine").caption)


def test_the_figures_are_drawn_along_the_axis_that_the_link_names(page: OpenPage, finished_home: Path):
    shown = page("findings", axis="seconds")
    figures = [json.loads(chart.proto.spec) for chart in shown.get("plotly_chart")]
    titles = [figure["layout"]["title"]["text"] for figure in figures]
    assert any(title.startswith("Exact acceptance (fraction) by method and domain") for title in titles)
    assert any(title.endswith("by seconds of training") for title in titles)


def test_runs_that_are_put_away_or_not_proven_stay_out(page: OpenPage, finished_home: Path):
    run = run_folders(Home(finished_home))[0]
    twin(finished_home, run, "black", "sft")
    write_json(finished_home / "runs" / "black" / "labels.json", {"archived": True})
    shown = page("findings")
    assert any("1 run took part; left out: 1 archived" in part.value for part in shown.caption)
    assert not [frame for frame in shown.dataframe if "forward_kl (white box)" in frame.value]


def test_a_run_that_would_help_is_opened_in_launch_with_its_changes(page: OpenPage, finished_home: Path):
    shown = page("findings", open_white_box="true")
    run = run_folders(Home(finished_home))[0]
    links = [parse_qs(found.proto.query_string) for found in shown.get("page_link")]
    assert {"from": [run.id], "set": ["train.loss=sft"]} in links


def test_a_finding_leads_to_its_study_in_launch_and_the_address_names_the_claim_alone(
    page: OpenPage, finished_home: Path
):
    twin(finished_home, run_folders(Home(finished_home))[0], "black", "sft")
    shown = page("findings", open_white_box="true")
    (link,) = [one for one in shown.get("page_link") if "Open this study in Launch" in one.proto.label]
    assert link.proto.query_string == "begin=Study&study=would+decide%3A+white_box"
    planned = page("launch", begin="Study", study="would decide: white_box")
    assert planned.selectbox(key="study").value == "would decide: white_box"
    assert not planned.error
    assert any(metric.label == "Cells" and int(metric.value) >= 2 for metric in planned.metric)
    unknown = page("launch", begin="Study", study="would decide: nothing")
    assert unknown.selectbox(key="study").value != "would decide: nothing"
