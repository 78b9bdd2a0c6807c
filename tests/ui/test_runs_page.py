"""The table of runs under AppTest: filters in the address, labels, archive, damaged folders."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from engine.paths import home
from engine.runs.folder import RunFolder
from engine.runs.labels import read_labels
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import EVIL, add_run, add_seed, finished_id
from workbench.runs import rows
from workbench.runs.views import saved_views
from workbench.shared import downloads


def table(test: AppTest) -> pd.DataFrame:
    """The table of runs; a summary of groups may stand before it."""
    return test.dataframe[-1].value


def select(test: AppTest, *run_ids: str) -> AppTest:
    """Select rows as a click does."""
    shown = test.dataframe[-1]
    rows = [place for place, run_id in enumerate(shown.value["run"]) if run_id in run_ids]
    assert len(rows) == len(run_ids)
    test.session_state[shown.key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    return test.run()


def press(test: AppTest, label: str) -> AppTest:
    return next(button for button in test.button if button.label == label).click().run()


def labels(run_id: str):
    return read_labels(RunFolder.open(home(), run_id))


@pytest.fixture
def several(finished_home: Path) -> str:
    """A finished run, a cancelled one of an evil title, an archived one; returns the finished one's id."""
    done = finished_id(finished_home)
    add_run(
        finished_home,
        "evil",
        "cancelled",
        labels={"title": EVIL, "notes": f"note {EVIL}", "tags": ["<b>t</b>"], "pinned": True},
    )
    add_run(finished_home, "old", "failed", labels={"archived": True})
    return done


def test_the_table_shows_state_measurement_and_marks(several: str, page: OpenPage):
    shown = table(page("runs")).set_index("run")
    assert list(shown.index) == ["evil", several]  # pinned first, archived left out
    assert shown.loc[several, "state"] == "✓ done"
    assert 0 <= shown.loc[several, "exact"] <= 1
    assert shown.loc[several, "n"] == 5
    assert shown.loc["evil", "state"] == "■ cancelled"
    assert shown.loc["evil", "label"] == EVIL


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"q": "ONERROR"}, {"evil"}),
        ({"q": "no such words", "state": "done"}, None),
        ({"state": "done"}, {"tiny"}),
        ({"state": ["done", "cancelled"]}, {"tiny", "evil"}),
        ({"archived": "only"}, {"old"}),
        ({"archived": "shown", "domain": "test"}, {"tiny", "evil", "old"}),
        ({"tag": "<b>t</b>"}, {"evil"}),
        ({"where": "exact >= 0 and train.epochs > 0"}, {"tiny"}),
        ({"where": 'state = "cancelled"'}, {"evil"}),
        ({"where": "train.epochs > 1000"}, None),
        ({"state": "nonsense", "order": "nonsense"}, {"tiny", "evil"}),
    ],
)
def test_the_address_restores_the_filters(several: str, page: OpenPage, params: dict, expected: set[str] | None):
    test = page("runs", **params)
    if expected is None:
        assert not test.dataframe
        assert "No run matches" in test.info[0].value
        assert len(table(press(test, "Clear filters"))) == 2
    else:
        assert {run_id.split("-")[0] for run_id in table(test)["run"]} == expected


def test_a_condition_that_cannot_be_evaluated_says_why_and_shows_no_run(several: str, page: OpenPage):
    test = page("runs", where="train.epoch > 1")
    assert "did you mean" in " ".join(error.value for error in test.error)
    assert not test.dataframe, "all runs would seem to fulfil it"
    assert "until the condition is fixed" in " ".join(caption.value for caption in test.caption)
    assert len(table(press(test, "Clear filters"))) == 2


def test_any_setting_and_rate_is_a_column(several: str, page: OpenPage):
    shown = table(page("runs", columns=["train.epochs", "tau_0"])).set_index("run")
    run = RunFolder.open(home(), several)
    assert shown.loc[several, "train.epochs"] == run.recipe().train.epochs
    assert shown.loc[several, "tau_0"] == pytest.approx(run.summary().of("trained", "tau")[0].value)


def test_more_columns_stand_beside_the_filters_under_plain_titles(several: str, page: OpenPage):
    test = page("runs", columns="train.learning_rate")
    (more,) = [one for one in test.multiselect if one.key == "columns"]
    assert "Learning rate (training)" in more.options
    assert "Exact acceptance before training" in more.options
    assert not any("train." in option for option in more.options)
    assert not [one for fold in test.expander for one in fold.multiselect if one.key == "columns"]
    assert test.query_params["columns"] == "train.learning_rate", "the address keeps the name"
    assert "Learning rate (training)" in test.dataframe[-1].proto.columns


def test_groups_tell_count_and_best_and_narrow_the_table(several: str, page: OpenPage):
    test = page("runs", group="tag")
    summary = test.dataframe[0].value.set_index("group")
    assert summary.loc["<b>t</b>", "runs"] == 1
    assert len(test.dataframe) == 1, "every group is folded"
    test = page("runs", group="tag", **{"in": "<b>t</b>"})
    assert list(table(test)["run"]) == ["evil"]
    assert "No group here" in page("runs", group="tag", **{"in": "none"}).warning[0].value


def test_a_group_of_seeds_says_its_mean_error_and_n(
    several: str, page: OpenPage, finished_home: Path, monkeypatch: pytest.MonkeyPatch
):
    kept: list[dict] = []
    draw = downloads.download_row

    def noted(name: str, key: str, **files) -> None:
        kept.append({"name": name, **files})
        draw(name, key, **files)

    monkeypatch.setattr(downloads, "download_row", noted)
    for seed, exact in ((1, 0.2), (2, 0.4)):
        add_seed(finished_home, f"seed{seed}", seed, exact)
    test = page("runs", group="all settings but the seed")
    summary = test.dataframe[0].value
    row = summary[summary.measured == 3].iloc[0]
    own = RunFolder.open(home(), several).summary().of("trained", "exact")[0].value
    assert row["mean"] == pytest.approx((own + 0.2 + 0.4) / 3)
    assert row["error"] == pytest.approx(pd.Series([own, 0.2, 0.4]).std() / 3**0.5)
    assert row.seeds == 3
    assert any("n \\= 3 runs, 3 seeds" in fold.label for fold in test.expander)
    assert [one["name"] for one in kept] == ["groups-of-runs"]
    assert kept[-1]["frame"]["mean"].tolist() == summary["mean"].tolist(), "the rows on the page are saved"


def test_a_view_is_saved_opened_renamed_and_deleted(several: str, page: OpenPage):
    test = page("runs", where="exact >= 0", group="domain", columns="tau_0")
    test.text_input(key="_view_name").set_value("good ones").run()
    assert "Saved" in press(test, "Save as a new view").success[0].value
    other = page("runs", saved="good ones")
    assert (other.text_input(key="where").value, other.selectbox(key="group").value) == ("exact >= 0", "domain")
    assert other.multiselect(key="columns").value == ["tau_0"]
    other.text_input(key="view-rename-good ones").set_value("better").run()
    press(other, "Rename")
    assert list(saved_views(home())) == ["better"]
    press(test, "Delete the view")
    assert "deleted it" in test.error[0].value
    assert list(saved_views(home())) == ["better"]
    press(other, "Delete the view")
    assert saved_views(home()) == {}


def test_a_run_is_removed_and_restored(several: str, page: OpenPage, finished_home: Path):
    press(select(page("runs"), several), "Set as baseline")
    test = select(page("runs"), several)
    assert any("baseline that others" in text.value for text in test.markdown)
    press(test, "Remove 1 run")
    assert list(table(test)["run"]) == ["evil"]
    press(test, "Restore")
    assert several in set(table(test)["run"])


def test_the_button_of_a_row_opens_its_run(several: str, page: OpenPage):
    test = page("runs")
    assert set(table(test)["open"]) == {"Open"}


def test_many_runs_are_shown_a_page_at_a_time(
    several: str, page: OpenPage, monkeypatch: pytest.MonkeyPatch, finished_home: Path
):
    monkeypatch.setattr(rows, "PAGE_ROWS", 1)
    assert list(table(page("runs"))["run"]) == ["evil"]
    assert list(table(page("runs", page=2))["run"]) == [several]


def test_no_title_or_note_is_ever_markdown(several: str, page: OpenPage):
    test = select(page("runs"), "evil")
    shown = [element.value for element in (*test.markdown, *test.caption, *test.success)]
    assert not [text for text in shown if "<img" in text and "\\<img" not in text]
    assert any(r"\<img src\=x onerror\=alert\(1\)\>" in text for text in shown)


def test_pin_baseline_and_archive_change_the_labels_and_nothing_else(several: str, page: OpenPage, finished_home: Path):
    test = select(page("runs"), several)
    press(test, "Set as baseline")
    assert labels(several).baseline
    select(test, several)
    press(test, "Archive")
    assert labels(several).archived
    assert (finished_home / "runs" / several / "measure" / "summary.json").is_file()
    assert several in test.success[0].value.replace("\\", "")
    assert list(table(test)["run"]) == ["evil"]


def test_only_one_run_is_the_baseline(several: str, page: OpenPage):
    press(select(page("runs"), several), "Set as baseline")
    press(select(page("runs"), "evil"), "Set as baseline")
    assert not labels(several).baseline
    assert labels("evil").baseline


def test_several_runs_get_a_tag_and_keep_their_own(several: str, page: OpenPage):
    test = select(page("runs"), several, "evil")
    next(field for field in test.multiselect if field.label == "Add tags").set_value(["new"])
    press(test, "Save")
    assert "new" in labels(several).tags
    assert labels("evil").tags == ("<b>t</b>", "new")
    assert labels("evil").notes == f"note {EVIL}"


def test_a_run_is_renamed(several: str, page: OpenPage):
    test = select(page("runs"), several)
    next(field for field in test.text_input if field.label == "Title").set_value("Best so far")
    press(test, "Save")
    assert labels(several).title == "Best so far"
    assert table(test).set_index("run").loc[several, "label"] == "Best so far"


def test_a_selection_follows_its_run_when_the_rows_change(several: str, page: OpenPage):
    test = select(page("runs"), several)
    test.selectbox(key="archived").set_value("shown").run()
    assert any(several in text.value.replace("\\", "") for text in test.markdown if "selected" in text.value)


def test_damaged_folders_are_listed_with_what_is_wrong(several: str, page: OpenPage, finished_home: Path):
    (add_run(finished_home, "torn", "done") / "status.json").write_text('{"state": "do')
    (add_run(finished_home, "bare", "done") / "config.yaml").unlink()
    shown = table(page("runs")).set_index("run")
    assert shown.loc["torn", "state"] == "⚠ damaged"
    assert "status.json" in shown.loc["torn", "problems"]
    assert "config.yaml" in shown.loc["bare", "problems"]
    assert "⚠ incomplete" in shown.loc["bare", "marks"]


def test_the_page_knows_its_own_parameters(several: str, page: OpenPage):
    test = page("runs", where="train.epochs > 0", columns="tau_0", group="domain", **{"in": "test"})
    assert not test.warning
    assert "tau_0" in table(test)


def test_a_baseline_of_another_tab_is_not_lost(several: str, page: OpenPage):
    mine, theirs = select(page("runs"), several), select(page("runs"), "evil")
    press(theirs, "Set as baseline")
    press(mine, "Set as baseline")
    assert "it is evil now" in mine.error[0].value
    assert labels("evil").baseline
    assert not labels(several).baseline
    time.sleep(1.1)  # a second click within a second is a double click
    press(mine, "Set as baseline")
    assert labels(several).baseline
    assert not labels("evil").baseline


def test_what_runs_are_grouped_by_has_plain_words_and_the_address_its_name(page: OpenPage, finished_home: Path):
    shown = page("runs", group="train.learning_rate")
    box = shown.selectbox(key="group")
    assert box.value == "train.learning_rate"
    assert "Learning rate (training)" in box.options
    assert "train.learning_rate" not in box.options
    assert "nothing" in page("runs").selectbox(key="group").options
    assert "group" not in page("runs").query_params
