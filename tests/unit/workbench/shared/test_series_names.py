"""Names in a figure: what the series share goes, what differs between them stays whole."""

from __future__ import annotations

from workbench.shared.series_names import fitting, series_names


def test_parts_that_all_titles_begin_with_are_dropped():
    start = "function_calling, synthetic, 200: "
    titles = [f"{start}online forward_kl", f"{start}on-policy reverse_kl with LoRA"]
    assert series_names(titles) == ["online forward_kl", "on-policy reverse_kl with LoRA"]
    assert series_names(["biology, 200: tvd", "biology, 20: tvd"]) == ["200: tvd", "20: tvd"]
    assert series_names(["biology", "biology, more"]) == ["biology", "biology, more"], "nothing is left of no name"


def test_equal_titles_and_one_alone_stay_and_only_they_are_cut():
    assert series_names(["biology: tvd", "biology: tvd"]) == ["biology: tvd", "biology: tvd"]
    (cut,) = series_names(["a" * 30 + "b" * 30], 20)
    assert cut == "a" * 11 + "…" + "b" * 8


def test_what_differs_is_never_cut():
    run = "first-biology_historical_{}-equal-tokens-20261122-170335-b79d"
    names = [run.format("forward-kl"), run.format("reverse-kl-and-much-more-that-makes-it-a-very-long-name")]
    assert fitting(names, 40) == ["…forward-kl…", "…reverse-kl-and-much-more-that-makes-it-a-very-long-name…"]
    apart = ["x" * 60, "y" * 60]
    assert fitting(apart, 40) == apart


def test_short_values_stay_as_they_are():
    assert fitting(["kl, tvd", "kl, ce"], 40) == ["kl, tvd", "kl, ce"]
