"""Which figures there are, what they are called, which direction is better, and what they depend on."""

from __future__ import annotations

import pandas as pd

from engine.explore.alike import differing, measured_alike
from engine.explore.figures import chosen_by_user, figures_of, varied
from engine.measure.definitions import RATES


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run_id": ["a", "b", "c"],
            "target": ["one", "one", "two"],
            "heldout_hash": ["h", "h", "h"],
            "num_draft_tokens": [3, 5, 3],
            "dtype": ["bfloat16"] * 3,
            "quantize": [None] * 3,
            "exact_0": [0.3, 0.4, 0.5],
            "tau_0_7": [1.5, 1.6, None],
            "train_s": [10.0, 20.0, 30.0],
            "train.learning_rate": [1e-3, 1e-3, 1e-4],
            "train.online.update_interval": [8, 8, 8],
            "measure.top_p": [1.0, 1.0, 1.0],
            "loss": ["jsd", "tvd", "jsd"],
            "notes": ["", "", ""],
            "argmax_1": [None, None, None],
        }
    )


def test_every_column_that_means_something_has_a_name_for_people():
    figures = figures_of(table())
    assert "notes" not in figures
    assert "argmax_1" not in figures, "no run has it"
    assert figures["tau_0_7"].title == "Tokens per target forward (tau), T = 0.7"
    assert figures["train.online.update_interval"].title == "Update interval (training, online)"
    assert not [figure.title for figure in figures.values() if "_" in figure.title or figure.title == figure.name]


def test_the_better_direction_is_the_figures_own():
    figures = figures_of(table())
    assert figures["exact_0"].better == RATES["exact"].better == "higher"
    assert figures["train_s"].better == "lower"
    assert figures["train.learning_rate"].better is None


def test_runs_differ_only_in_what_a_figure_depends_on():
    figures, same_target = figures_of(table()), table().head(2)
    assert differing(same_target, [figures["exact_0"]]) == [], "exact acceptance does not depend on gamma"
    (gamma,) = differing(same_target, [figures["tau_0_7"]])
    assert (gamma.words, gamma.counts) == ("gamma", {"3": 1, "5": 1})
    assert [d.words for d in differing(table(), [figures["exact_0"]])] == ["target"]
    assert differing(table(), [figures["loss"]]) == []


def test_runs_measured_alike_share_target_and_prompts():
    groups = measured_alike(table().assign(heldout_hash=["h", "h", None]))
    assert groups[0] == groups[1] != ""
    assert groups[2] == ""


def test_settings_that_explain_are_the_recipes_and_vary():
    figures = figures_of(table())
    names = [f.name for f in varied(table(), figures.values()) if chosen_by_user(f)]
    assert sorted(names) == ["loss", "target", "train.learning_rate"]
