"""The Compare page: never empty where there are runs, paired where that is right, and deaf to markup."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from tests.ui.conftest import OpenPage

EVIL = "<img src=x onerror=alert(1)>"
VIEWS = ["Rates", "Curves", "Positions", "Slices", "Speed", "Prompts", "Configuration", "Report"]


@pytest.fixture
def first(finished_home: Path) -> Path:
    (folder,) = (path for path in (finished_home / "runs").iterdir() if path.is_dir())
    return folder


def copy(first: Path, name: str, *, better: float = 0.0, settings: dict | None = None, **conditions) -> Path:
    """The run under another id: exact acceptance raised by `better` per token, or measured under other conditions."""
    other = shutil.copytree(first, first.with_name(name))
    summary = json.loads((other / "measure" / "summary.json").read_text())
    summary["conditions"] |= conditions
    for metric in summary["metrics"]:
        if metric["metric"] == "exact" and metric["draft"] == "trained":
            metric |= {key: metric[key] + better for key in ("value", "low", "high")}
    (other / "measure" / "summary.json").write_text(json.dumps(summary))
    prompts = pd.read_parquet(other / "measure" / "prompts.parquet")
    prompts["exact_sum"] += better * prompts.n_positions * (prompts.draft == "trained")
    prompts.to_parquet(other / "measure" / "prompts.parquet", index=False)
    recipe = yaml.safe_load((other / "config.yaml").read_text())
    recipe["name"] = name
    recipe["train"] |= settings or {}
    (other / "config.yaml").write_text(yaml.safe_dump(recipe))
    return other


def wording(test) -> str:
    """Everything on the page that is text."""
    parts = [element.proto.body for element in test.get("html")]
    parts += [e.value for kind in ("markdown", "caption", "warning", "error", "info") for e in getattr(test, kind)]
    return "\n".join(parts)


def test_with_no_run_one_button_leads_on(page: OpenPage):
    test = page("compare")
    assert [button.label for button in test.button] == ["Start a run"]


def test_with_one_run_its_rates_stand_and_a_second_is_asked_for(page: OpenPage, first: Path):
    test = page("compare")
    assert test.multiselect(key="runs").value == [first.name]
    assert "Choose a second draft" in wording(test)
    assert "Exact acceptance" in wording(test)


def test_without_a_choice_in_the_url_the_best_are_shown(page: OpenPage, first: Path):
    better = copy(first, "better", better=0.05)
    test = page("compare")
    assert test.multiselect(key="runs").value == [better.name, first.name]
    assert test.selectbox(key="baseline").value == better.name


def test_the_drafts_side_by_side_are_of_the_domain_above_or_one_click_away(page: OpenPage, first: Path):
    other = [copy(first, name, better=better) for name, better in (("other", 0.05), ("another", 0.07))]
    for folder in other:
        recipe = yaml.safe_load((folder / "config.yaml").read_text())
        recipe["prompts"]["domain"] = "chemistry"
        (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    theirs = ["another", "other"]
    test = page("compare", domain="chemistry")
    assert test.multiselect(key="runs").value == theirs
    assert not [button for button in test.button if "domain" in button.label]
    test = page("compare", domain="chemistry", runs=first.name)
    assert test.multiselect(key="runs").value == [first.name], "what was chosen stays"
    (offered,) = [button for button in test.button if "domain" in button.label]
    offered.click().run()
    assert test.multiselect(key="runs").value == theirs


def test_the_baseline_of_the_store_is_the_baseline(page: OpenPage, first: Path):
    copy(first, "better", better=0.05)
    (first / "labels.json").write_text(json.dumps({"baseline": True}))
    test = page("compare")
    assert test.selectbox(key="baseline").value == first.name


def test_the_url_restores_the_view(page: OpenPage, first: Path):
    other = copy(first, "better", better=0.05)
    test = page(
        "compare", runs=[first.name, other.name], baseline=other.name, rate="tau", temperature="1", view="Positions"
    )
    assert test.multiselect(key="runs").value == [first.name, other.name]
    assert test.selectbox(key="baseline").value == other.name
    assert test.selectbox(key="rate").value == "tau"
    assert test.selectbox(key="temperature").value == "1"
    keys = {chart.proto.id.rsplit("-", 1)[-1] for chart in test.get("plotly_chart")}
    assert any("slot" in key for key in keys)


def test_the_url_names_what_is_shown_by_default(page: OpenPage, first: Path):
    better = copy(first, "better", better=0.05)
    test = page("compare")
    assert test.query_params["runs"] == [better.name, first.name]
    assert (test.query_params["baseline"], test.query_params["rate"]) in (
        (better.name, "exact"),
        ([better.name], ["exact"]),
    )
    again = page("compare", **test.query_params)
    assert again.multiselect(key="runs").value == [better.name, first.name]


def test_a_run_of_the_url_that_is_not_here_is_reported(page: OpenPage, first: Path):
    test = page("compare", runs=["gone", first.name])
    assert any("gone" in box.value for box in test.warning)
    assert not any("no such run" in box.value for box in page("compare", runs=[first.name]).warning)


def test_nonsense_in_the_url_gives_way_to_the_defaults(page: OpenPage, first: Path):
    wrong = {"prompt": "y", "axis": "z", "target": "t", "map_temperature": "cold"}
    test = page(
        "compare",
        **wrong,
        runs=["gone", first.name],
        baseline="gone",
        rate="nothing",
        temperature="7",
        view="Nowhere",
        domain="x",
    )
    assert test.multiselect(key="runs").value == [first.name]
    assert test.selectbox(key="rate").value == "exact"


def test_a_titled_run_is_found_by_its_id(page: OpenPage, first: Path):
    copy(first, "better", better=0.05)
    (first / "labels.json").write_text(json.dumps({"title": "My best"}))
    test = page("compare", runs=[first.name], baseline=first.name)
    assert test.multiselect(key="runs").value == [first.name]
    assert "A · My best" in wording(test)


def test_the_paired_change_is_the_difference(page: OpenPage, first: Path):
    other = copy(first, "better", better=0.05)
    shown = wording(page("compare", runs=[first.name, other.name]))
    assert "+0.050 (n = 5: too few for an interval)" in shown
    assert not any(f"{mark} +" in shown for mark in "▲▼≈"), "a change over five prompts is marked"
    assert "Not comparable" not in shown


def test_saved_files_name_temperature_and_baseline(page: OpenPage, first: Path, monkeypatch: pytest.MonkeyPatch):
    from workbench.shared import downloads

    names: list[str] = []
    monkeypatch.setattr(downloads, "download_row", lambda name, key, **given: names.append(name))
    other = copy(first, "better", better=0.05)
    page("compare", runs=[first.name, other.name], baseline=other.name, temperature="1")
    ending = f"-to-{other.name}-T1"
    assert {f"rates{ending}", f"agreement{ending}", "as-others-T1", "rate-exact-T1"} <= set(names)
    assert "acceptance-map-T0" in names


def test_what_may_not_be_compared_says_why(page: OpenPage, first: Path):
    other = copy(first, "longer", num_draft_tokens=9)
    test = page("compare", runs=[first.name, other.name])
    shown = wording(test).replace("\\", "")
    assert "⊘ not comparable" in shown
    assert any("num_draft_tokens is 9 here and" in box.value.replace("\\", "") for box in test.warning)
    assert "+0.000 (n = " in shown  # exact acceptance does not depend on gamma


def test_a_failed_certificate_is_reported(page: OpenPage, first: Path):
    path = first / "measure" / "summary.json"
    summary = json.loads(path.read_text())
    summary["certificate"]["passed"] = False
    path.write_text(json.dumps(summary))
    assert any("certificate failed" in box.value for box in page("compare", runs=[first.name]).error)


@pytest.mark.parametrize("view", VIEWS)
def test_every_part_draws_and_escapes_titles(page: OpenPage, first: Path, view: str):
    other = copy(first, "better", better=0.05, settings={"epochs": 3})
    (other / "labels.json").write_text(json.dumps({"title": EVIL, "notes": EVIL, "tags": [EVIL]}))
    shown = wording(page("compare", view=view))
    assert EVIL not in shown
    if view == "Configuration":
        assert "train.epochs" in shown.replace("<wbr>", "")
        assert "&lt;img src=x" in shown


def test_a_prompt_opens_for_both_drafts_with_its_tokens(page: OpenPage, first: Path):
    copy(first, "better", better=0.05)
    test = page("compare", view="Prompts", prompt="heldout2")
    assert test.selectbox(key="prompt").value == "heldout2"
    shown = wording(test)
    assert shown.count('class="tokens light"') == 2
    assert f"run={first.name}" in shown
    assert "prompt=heldout2" in shown


def test_a_prompt_that_was_not_traced_says_so(page: OpenPage, first: Path):
    copy(first, "better", better=0.05)
    table = pd.read_parquet(first / "measure" / "prompts.parquet")
    untraced = table[(table.draft == "trained") & table.rounds.isna()].prompt_id.iloc[0]
    assert "was not traced in this run" in wording(page("compare", view="Prompts", prompt=untraced))


@pytest.mark.parametrize("by", ["kind", "position", "context", "entropy", "group", "category"])
def test_slices_show_where_each_draft_fails(page: OpenPage, first: Path, by: str):
    other = copy(first, "better", better=0.05)
    test = page("compare", view="Slices", runs=[first.name, other.name], slice=by, temperature="1")
    assert test.selectbox(key="slice").value == by
    assert "Change from the baseline by slice" in [heading.value for heading in test.subheader]
    shown = wording(test)
    assert "+0.000 (n = " in shown  # the tokens of both are the same
    assert f"slices {first.name} --worst 0.6 --out" in test.code[0].value


def test_a_slice_to_train_for_is_in_the_command_and_in_the_address(page: OpenPage, first: Path):
    test = page("compare", view="Slices", slice="position", only="8 to 15")
    assert test.selectbox(key="only").value == "8 to 15"
    assert "--by position --only '8 to 15'" in test.code[0].value


def test_slicing_by_something_else_forgets_the_slice_without_a_warning(page: OpenPage, first: Path):
    test = page("compare", view="Slices", slice="position", only="8 to 15")
    test.selectbox(key="slice").select("group").run()
    assert test.selectbox(key="only").value == ""
    assert "--only" not in test.code[0].value
    assert not [box.value for box in test.warning]


def test_drafts_without_the_columns_say_so_and_the_others_are_shown(page: OpenPage, first: Path):
    other = copy(first, "earlier", better=0.05)
    table = pd.read_parquet(other / "measure" / "positions.parquet").drop(columns="entropy")
    table.to_parquet(other / "measure" / "positions.parquet", index=False)
    test = page("compare", view="Slices", runs=[first.name, other.name], baseline=first.name, slice="entropy")
    assert any("does not hold the target's entropy" in box.value for box in test.info)
    assert test.get("plotly_chart")


@pytest.mark.parametrize("rate", ["tau", "per_proposed"])
def test_sampled_rates_can_be_sliced_but_not_by_the_entropy_of_another_text(page: OpenPage, first: Path, rate: str):
    assert "target forwards" in wording(page("compare", view="Slices", rate="tau", slice="kind"))
    refused = page("compare", view="Slices", rate=rate, slice="entropy")
    assert any("cannot be sliced by entropy" in box.value for box in refused.info)


def test_the_chosen_drafts_come_first_and_the_map_of_their_domain_below(page: OpenPage, first: Path):
    other = copy(first, "other", better=0.05)
    recipe = yaml.safe_load((other / "config.yaml").read_text())
    recipe["prompts"]["domain"] = "chemistry"
    (other / "config.yaml").write_text(yaml.safe_dump(recipe))
    for chosen, domain in ((other.name, "chemistry"), (first.name, "tiny")):
        test = page("compare", runs=chosen)
        keys = [chart.proto.id.rsplit("-", 1)[-1] for chart in test.get("plotly_chart")]
        assert (keys[0], keys[-1]) == ("bars", "map")
        own = yaml.safe_load((first.parent / chosen / "config.yaml").read_text())["prompts"]["domain"]
        assert test.selectbox(key="domain").value == own, domain


def test_a_click_on_the_map_names_each_run_of_the_cells_once():
    from workbench.compare.every_run import clicked_runs

    event = {"selection": {"points": [{"customdata": "a b"}, {"customdata": ["b c"]}, {"x": 1}]}}
    assert clicked_runs(event) == ["a", "b", "c"]
    assert clicked_runs(None) == clicked_runs({"selection": {"points": []}}) == []


def clicked_map() -> None:
    """A script with the callback of the map, which AppTest cannot click, and the button that undoes it."""
    import streamlit as st

    from workbench.compare import every_run

    if st.session_state.pop("clicked", False):
        every_run._take_click()
    every_run.back()


def test_a_click_on_the_map_forgets_the_old_baseline_and_one_button_goes_back(page: OpenPage, first: Path):
    before = {"runs": [copy(first, "old").name, copy(first, "older").name], "baseline": "older", "temperature": "0"}
    test = AppTest.from_function(clicked_map, default_timeout=60)
    test.query_params.update(before)
    test.session_state["map"] = {"selection": {"points": [{"customdata": first.name}]}}
    test.session_state["clicked"] = True
    test.run()
    assert not test.exception
    assert dict(test.query_params) == {"runs": first.name, "temperature": "0"}
    assert "does not exist here" not in wording(page("compare", **test.query_params)).replace("\\", "")
    test.button(key="drafts-before").click().run()
    assert dict(test.query_params) == before
    assert not test.button, "nothing is left to go back to"


def test_positions_that_were_not_recorded_are_no_temperature_that_was_not_measured(page: OpenPage, first: Path):
    for path in (first / "measure").glob("rounds*.parquet"):
        path.unlink()
    shown = wording(page("compare", view="Positions", runs=first.name))
    assert "Acceptance by position was not recorded for these runs." in shown


def test_speed_is_compared_at_each_drafts_own_gamma_and_at_one(page: OpenPage, first: Path):
    other = copy(first, "other", num_draft_tokens=9)
    path = other / "measure" / "summary.json"
    summary = json.loads(path.read_text())
    summary["speed"]["forward_s"]["num_draft_tokens"] = 2
    path.write_text(json.dumps(summary))
    test = page("compare", view="Speed", runs=[first.name, other.name], gamma="2")
    shown = wording(test)
    assert test.selectbox(key="gamma").value == "2"
    assert "at gamma 2" in shown
    assert "own best gamma" in shown
    assert shown.count(" measured</td>") >= 1, "the second draft was timed at gamma 2"
    assert shown.count(" predicted</td>") >= 1, "the first was not"
    assert not any("Speed-ups are not comparable" in box.value for box in test.warning), "another gamma is no reason"


def test_the_report_holds_slices_and_speeds_at_each_gamma(first: Path, monkeypatch: pytest.MonkeyPatch):
    from workbench.compare import report
    from workbench.compare.comparison import load_comparison
    from workbench.shared import downloads, queries

    monkeypatch.setattr(downloads, "chrome", lambda: None)  # interactive figures: nothing to wait for
    other = copy(first, "better", better=0.05)
    comparison = load_comparison([first.name, other.name], 0.0, first.name)
    text = report.whole(comparison, "exact", queries.curve([first.name, other.name]), "steps", "Two drafts", "position")
    assert "Where each draft fails: position in the answer" in text
    assert "Change from the baseline by slice" in text
    assert "slices-position-exact" in text, "the figure of the slices"
    assert "Speed at each gamma" in text
    assert " predicted</td>" in text
