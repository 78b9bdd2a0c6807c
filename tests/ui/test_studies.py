"""Studies in the browser: the Launch page's tab, and Compare's filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from engine.jobs import queue
from engine.paths import home
from engine.records import study_tag
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import read_labels
from engine.study.spec import load_study
from engine.study.start import start, study
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import add_run, finished_id
from workbench.shared import queries


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are queued, and nobody works on them."""
    monkeypatch.setattr(queue, "wake", lambda where: None)
    monkeypatch.setattr(queries, "wake_all", lambda where: None)


@pytest.fixture
def study_file(recipe: Path, tmp_path: Path) -> Path:
    """A study whose first cell is the run of `finished_home`."""
    values = {"name": "tiny-study", "base": str(recipe), "axes": {"loss": ["forward_kl", "sft", "tvd"]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "study.yaml"


def open_study(page: OpenPage, **params: Any) -> AppTest:
    return page("launch", begin="Study", **params)


def open_file(page: OpenPage, path: Path | str) -> AppTest:
    """The study of a recipe whose path is typed: no address names it."""
    shown = open_study(page, study="another file")
    return shown.text_input(key="study_file").set_value(str(path)).run()


def test_a_link_names_no_file_of_a_study(page: OpenPage, study_file: Path):
    shown = open_study(page, study="another file", study_path=str(study_file))
    assert shown.text_input(key="study_file").value == ""
    assert any("also asked for the study" in found.value for found in shown.warning)
    assert button(shown, "study-start") is None


def metrics(shown: AppTest) -> dict[str, str]:
    return {found.label: found.value for found in shown.metric}


def button(shown: AppTest, key: str) -> Any:
    return next((found for found in shown.button if found.key == key), None)


def test_the_plan_of_a_shipped_study_and_nothing_of_the_form(page: OpenPage):
    shown = open_study(page)
    assert metrics(shown) == {"Cells": "162", "To do": "162"}
    assert button(shown, "study-start").label == "Start 162 missing runs"
    assert not [found for found in shown.text_input if (found.key or "").startswith("form:")]
    assert any("None yet" in found.value for found in shown.caption)
    assert not run_folders(home())


def test_a_command_in_what_a_study_needs_is_shown_as_code(page: OpenPage):
    shown = open_study(page, study="recipes/studies/first.yaml")
    assert any("Needs `draftbench data fetch --all`" in note.value.replace("\\.", ".") for note in shown.caption)


def test_the_missing_runs_are_started_once_and_those_there_are_adopted(
    page: OpenPage, finished_home: Path, study_file: Path
):
    shown = open_file(page, study_file)
    assert metrics(shown) == {"Cells": "3", "Done": "1", "To do": "2"}
    button(shown, "study-start").click().run()
    assert any("2 runs of study" in found.value for found in shown.success)
    assert sorted(run.recipe().train.loss[0].name for run in queue.waiting(home())) == ["sft", "tvd"]
    assert "study:tiny-study" in read_labels(RunFolder.open(home(), finished_id(finished_home))).tags
    assert metrics(shown) == {"Cells": "3", "Done": "1", "Waiting": "2"}
    assert button(shown, "study-start") is None
    assert any("1 of 3 done, 2 under way" in found.proto.text for found in shown.get("progress"))
    again = open_study(page, study="begun here: tiny-study")
    assert metrics(again)["Waiting"] == "2"
    assert len(run_folders(home())) == 3


def test_time_and_disk_are_reported_when_asked(page: OpenPage, finished_home: Path, study_file: Path):
    shown = open_file(page, study_file)
    button(shown, "study-cost").click().run()
    figures = metrics(shown)
    assert figures["Shared captures"] == "3 of 3 there"
    assert figures["Time, about"] != "not known"
    assert "MB" in figures["Disk, at most"] or "kB" in figures["Disk, at most"]


def test_a_study_that_is_not_valid_is_an_error_in_words(page: OpenPage, tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("name: x\naxes: {los: [sft]}")
    for path, words in ((tmp_path / "bad.yaml", "did you mean"), ("nowhere.yaml", "no such file")):
        shown = open_file(page, path)
        assert words in "\n".join(box.value for box in shown.error).replace("\\", "")
        assert button(shown, "study-start") is None


def test_compare_shows_the_runs_of_a_study(page: OpenPage, finished_home: Path, study_file: Path):
    first = finished_id(finished_home)
    files = ("measure", "training.json", "provenance.json")
    other = add_run(finished_home, "outside-20260101-000000-abcd", "done")
    import shutil

    for name in files:
        source = finished_home / "runs" / first / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, other / name)
    start(home(), study(home(), load_study(study_file)))
    whole = page("compare")
    assert whole.selectbox(key="study").value == ""
    assert set(whole.multiselect(key="runs").options) >= {first, other.name}
    shown = page("compare", study="tiny-study")
    assert shown.selectbox(key="study").value == "tiny-study"
    assert len(shown.multiselect(key="runs").options) == 1
    shown.selectbox(key="study").set_value("").run()
    assert "study" not in shown.query_params
    assert len(shown.multiselect(key="runs").options) == 2
    missing = page("compare", study="<b>gone</b>")
    assert any("gone" in box.value and "<b>" not in box.value.replace("\\<b", "") for box in missing.warning)


def test_a_study_is_known_by_its_tag():
    runs = pd.DataFrame({"run_id": list("abcd"), "tags": [["study:x"], ["study:y", "z"], None, ["study:", "studied"]]})
    assert study_tag.studies_of(runs) == ["x", "y"]
    assert list(study_tag.of_study(runs, "y").run_id) == ["b"]
    assert list(study_tag.of_study(runs, "").run_id) == list("abcd")
