"""The Explorer: runs as points, what is not comparable said, a selection handed on, all of it in the address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.ui.conftest import OpenPage
from tests.ui.test_compare import EVIL, copy, first, wording  # noqa: F401


@pytest.fixture
def several(first: Path) -> list[Path]:  # noqa: F811
    """Five runs: two losses, better and better; one measured with another gamma."""
    others = [
        copy(first, f"run-{place}", better=0.02 * place, settings={"loss": [{"name": "tvd" if place % 2 else "jsd"}]})
        for place in range(1, 4)
    ]
    return [first, *others, copy(first, "longer", better=0.01, num_draft_tokens=9)]


def drawn(test) -> list[dict]:
    """The figures of the page as Plotly gets them."""
    return [json.loads(chart.proto.spec) for chart in test.get("plotly_chart")]


def test_without_a_run_one_button_leads_on(page: OpenPage):
    assert [button.label for button in page("explorer").button] == ["Start a run"]


def test_every_run_is_a_point_and_the_best_are_on_the_pareto_line(page: OpenPage, several: list[Path]):
    test = page("explorer", x="n_train", y="exact_0", colour="loss")
    (figure,) = drawn(test)
    points = [run_id for trace in figure["data"] for run_id in trace.get("customdata", [])]
    assert sorted(points) == sorted(folder.name for folder in several)
    assert "n = 5 runs" in json.dumps(figure["layout"]["title"])
    (expander,) = test.expander
    assert expander.label == "1 run on the Pareto line"
    assert test.dataframe[0].value["run"].tolist() == ["run-3"], "the same cost for all: the best alone"


def test_what_is_not_comparable_is_said_and_one_click_colours_by_it(page: OpenPage, several: list[Path]):
    assert not page("explorer", y="exact_0").warning, "exact acceptance does not depend on gamma"
    test = page("explorer", x="n_train", y="tau_0")
    (box,) = test.warning
    assert "gamma (3: 4 runs, 9: 1 run)" in box.value.replace("\\", "")
    next(button for button in test.button if button.label == "Colour by gamma").click().run()
    assert test.query_params["colour"] in ("num_draft_tokens", ["num_draft_tokens"])
    assert test.selectbox(key="colour").value == "num_draft_tokens"


def test_a_selection_in_the_address_is_listed_and_goes_to_compare(page: OpenPage, several: list[Path]):
    test = page("explorer", picked=["run-1", "run-2"], y="exact_0")
    assert "2 runs selected" in wording(test)
    (link,) = [one for one in test.get("page_link") if one.proto.label == "Compare them"]
    assert "runs=run-2&runs=run-1" in link.proto.query_string, "the better one first"
    test.button(key=next(b.key for b in test.button if b.label == "Clear the selection")).click().run()
    assert "picked" not in test.query_params


def test_a_condition_narrows_and_a_wrong_one_is_explained(page: OpenPage, several: list[Path]):
    (figure,) = drawn(page("explorer", where="num_draft_tokens = 9", y="exact_0"))
    assert "n = 1 runs" in json.dumps(figure["layout"]["title"])
    assert "No measured run" in page("explorer", where="exact > 2").info[0].value
    wrong = page("explorer", where="nonsense > 2")
    assert "no run has a setting" in wrong.error[0].value.replace("\\", "")
    assert not wrong.get("plotly_chart"), "all runs would seem to fulfil it"
    assert "until the condition is fixed" in wording(wrong)


@pytest.mark.parametrize("view", ["Scatter", "Parallel coordinates", "Settings that matter", "Curves"])
def test_every_view_draws_and_escapes(page: OpenPage, several: list[Path], view: str):
    (several[1] / "labels.json").write_text(json.dumps({"title": EVIL, "notes": EVIL, "tags": [EVIL]}))
    test = page("explorer", view=view, alike="all", colour="loss")
    assert drawn(test), wording(test)
    assert EVIL not in json.dumps(drawn(test)) + wording(test)


def test_importance_is_of_the_figure_up_and_says_what_it_is(page: OpenPage, several: list[Path]):
    shown = wording(page("explorer", view="Settings that matter", y="exact_0"))
    assert "share of the differences between these runs" in shown


ONE_SEED = "No seed is repeated here"


def test_the_verdicts_are_said_with_their_threshold_and_the_effect_in_acceptance(page: OpenPage, several: list[Path]):
    test = page("explorer", view="Settings that matter", y="exact_0", settings="loss")
    shown = test.dataframe[-1].value
    (difference,) = shown["largest difference of means (acceptance)"]
    raised = {"own": (0 + 0.01) / 2, "tvd": (0.02 + 0.06) / 2, "jsd": 0.04}  # by `several`, over equal runs
    assert float(difference) == pytest.approx(max(raised.values()) - min(raised.values()), abs=0.0006)
    assert "at least 10% of the differences" in wording(test)
    assert ONE_SEED in wording(test)


def test_a_repeated_seed_is_seen(page: OpenPage, several: list[Path]):
    recipe = yaml.safe_load((several[3] / "config.yaml").read_text())
    recipe["train"]["seed"] = 7  # run-3 is run-1 but for that
    (several[3] / "config.yaml").write_text(yaml.safe_dump(recipe))
    assert ONE_SEED not in wording(page("explorer", view="Settings that matter", y="exact_0"))


def test_another_target_is_another_group_and_all_are_not_mixed_silently(page: OpenPage, several: list[Path]):
    recipe = yaml.safe_load((several[1] / "config.yaml").read_text())
    recipe["target"]["model"] = "elsewhere/another"
    (several[1] / "config.yaml").write_text(yaml.safe_dump(recipe))
    (figure,) = drawn(page("explorer", y="exact_0", x="n_train"))
    assert "n = 4 runs" in json.dumps(figure["layout"]["title"]) or "n = 1 runs" in json.dumps(
        figure["layout"]["title"]
    )
    test = page("explorer", y="exact_0", x="n_train", alike="all")
    assert "target" in test.warning[0].value


def test_a_run_whose_certificate_failed_is_left_out_and_said(page: OpenPage, several: list[Path]):
    path = several[3] / "measure" / "summary.json"
    summary = json.loads(path.read_text())
    summary["certificate"]["passed"] = False
    path.write_text(json.dumps(summary))
    test = page("explorer", x="n_train", y="exact_0")
    assert any("1 run whose losslessness certificate failed" in caption.value for caption in test.caption)
    assert "run-3" not in json.dumps(drawn(test)[0])


def test_it_begins_with_a_setting_and_the_axes_are_in_the_address_only_when_chosen(page: OpenPage, several: list[Path]):
    shown = page("explorer", view="Parallel coordinates")
    assert shown.selectbox(key="x").value != "train_s"
    assert "lines" not in shown.query_params
    usual = shown.multiselect(key="lines").value
    shown.multiselect(key="lines").set_value(usual[:1]).run()
    assert [shown.query_params["lines"]] == usual[:1]
    assert shown.multiselect(key="lines").value == usual[:1]
