"""Figures: they tell n and interval, do not rest on colour, and show user text as text."""

import json

import numpy as np
import pandas as pd
import pytest
from plotly.colors import unlabel_rgb

from engine.records.interval import Interval
from engine.records.speed import ForwardSeconds, GammaRow, Speed
from workbench.shared import chart_parts, learning_curve, rate_charts, speed_charts, theme

EVIL = "<img src=x onerror=alert(1)> %{x} & <b>bold</b>"
LABELS = {"r1": f"A · {EVIL}", "r2": "B · plain"}
TONES = ["light", "dark"]


def curves() -> pd.DataFrame:
    rows = [
        {
            "run_id": run,
            "step": s,
            "kind": kind,
            "temperature": t,
            "value": 1.0 / (s + 1),
            "tokens_seen": 100 * s,
            "seconds": 2.5 * s,
        }
        for run in LABELS
        for s in range(4)
        for kind, t in (("train", None), ("eval", 0.0), ("eval", 1.0))
    ]
    return pd.DataFrame(rows)


def rated() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": list(LABELS.values()),
            "value": [0.3, 0.4],
            "low": [0.25, 0.38],
            "high": [0.36, float("nan")],
            "n_prompts": [40, 40],
            "n_tokens": [3700, 3700],
            "before": [0.01, float("nan")],
        }
    )


def slots() -> pd.DataFrame:
    kinds = ("joint", "conditional")
    rows = [
        (label, s, kind, 0.5 / s, 0.4 / s, 0.6 / s, 90) for label in LABELS.values() for s in (1, 2) for kind in kinds
    ]
    return pd.DataFrame(rows, columns=["label", "slot", "kind", "value", "low", "high", "n"])


def prompts() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt_id": [EVIL, "p2"],
            "group": [EVIL, "g"],
            "text": [EVIL, None],
            "a": [0.1, 0.2],
            "b": [0.3, 0.1],
            "n_a": [9.0, 9.0],
            "n_b": [9.0, 9.0],
        }
    )


def cells() -> pd.DataFrame:
    rows = [
        (EVIL, "curated", "offline", 0.3, 0.25, 0.35, 40, 1, 1, 1, 0.3, 0.3, 200.0, ["a"]),
        ("tvd", "synthetic", "online", 0.2, 0.1, 0.3, 40, 3, 2, 2, 0.1, 0.3, 1600.0, ["b", "c", "d"]),
    ]
    names = ["loss", "scenario", "mode", "value", "low", "high", "n_prompts", "runs", "seeds", "sets", "least", "most"]
    names += ["n_train", "run_ids"]
    return pd.DataFrame(rows, columns=names)


SPEED = Speed(
    speedup=Interval(0.7, 0.6, 0.8, 6),
    forward_s=ForwardSeconds(num_draft_tokens=3),
    by_gamma=[GammaRow(gamma=g, formula=1.0 / g, measured=0.9 / g) for g in (1, 2, 3)],
)
GROUPS = pd.DataFrame(
    {
        "label": list(LABELS.values()),
        "group": [EVIL, "g"],
        "value": [0.2, 0.3],
        "low": [0.1, 0.2],
        "high": [0.3, 0.4],
        "n_prompts": [4, 4],
    }
)
FIGURES = {
    "curve": lambda tone: learning_curve.draw(curves(), "steps", "train", LABELS, tone),
    "eval": lambda tone: learning_curve.draw(curves(), "tokens", "eval", LABELS, tone, "n = 8 prompts"),
    "map": lambda tone: rate_charts.heat_map(cells(), tone),
    "rates": lambda tone: rate_charts.rate_bars(rated(), "exact", tone),
    "slots": lambda tone: rate_charts.by_slot(slots(), tone),
    "lengths": lambda tone: rate_charts.accepted_lengths({label: [5, 3, 2] for label in LABELS.values()}, tone),
    "speed": lambda tone: speed_charts.speedup_by_gamma(dict.fromkeys(LABELS.values(), SPEED), tone),
    "scatter": lambda tone: rate_charts.prompt_scatter(
        prompts(), "exact", (LABELS["r1"], LABELS["r2"]), tone, selected="p2"
    ),
    "groups": lambda tone: rate_charts.group_bars(GROUPS, "tau", tone),
}


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_and_says_n_or_interval(name: str, tone: str):
    layout = FIGURES[name](tone).layout
    assert layout.title.text
    assert any(word in layout.title.subtitle.text for word in ("n = ", "interval"))


@pytest.mark.parametrize("name", FIGURES)
def test_user_text_is_never_markup(name: str):
    figure = FIGURES[name]("light").to_plotly_json()
    shown = [{key: value for key, value in trace.items() if key != "customdata"} for trace in figure["data"]]
    wording = json.dumps([shown, figure["layout"]], default=list)  # customdata is never drawn
    assert "<img" not in wording
    assert "<b>bold" not in wording
    assert "&lt;img" in wording
    templates = [trace.get("hovertemplate") or "" for trace in figure["data"]] + [
        t.get("texttemplate") or "" for t in figure["data"]
    ]
    assert not any("%{x}" in template for template in templates)


def test_drafts_differ_by_more_than_colour():
    curve = FIGURES["curve"]("light").data
    assert curve[0].line.dash != curve[1].line.dash
    evaluated = FIGURES["eval"]("light").data
    assert len({trace.marker.symbol for trace in evaluated}) == 4  # two drafts at two temperatures
    for name in ("rates", "lengths", "groups"):
        bars = [trace for trace in FIGURES[name]("light").data if trace.type == "bar"]
        assert bars[0].marker.pattern.shape != bars[1].marker.pattern.shape


@pytest.mark.parametrize(("axis", "last"), [("steps", 3), ("tokens", 300), ("seconds", 7.5)])
def test_curves_on_the_axis_of_choice(axis: str, last: float):
    figure = learning_curve.draw(curves(), axis, "train", LABELS, "light")
    assert [trace.x[-1] for trace in figure.data] == [last, last]
    assert figure.layout.xaxis.title.text == learning_curve.AXES[axis]


def test_a_live_curve_without_points_still_draws():
    assert len(learning_curve.draw(curves().head(0), "steps", "train", LABELS, "dark").data) == 0


def test_the_map_writes_value_interval_and_runs_and_names_gaps():
    figure = FIGURES["map"]("light")
    wording = json.dumps([trace.text for trace in figure.data], default=list)
    assert "0.300" in wording
    assert "[0.250, 0.350]" in wording
    assert "3 runs, 2 seeds, n = 40<br>2 held-out sets" in wording
    assert (
        sum(note.text == "no run" for note in figure.layout.annotations) == 6
    )  # 2 losses x 2 scenarios x 2 modes, 2 filled


def test_intervals_become_bars_and_a_missing_one_does_not():
    bars = [trace for trace in FIGURES["rates"]("light").data if trace.type == "bar"]
    assert bars[0].error_x.array[0] == pytest.approx(0.06)
    assert bars[0].error_x.arrayminus[0] == pytest.approx(0.05)
    assert bars[1].error_x.array is None
    clocked = [trace for trace in FIGURES["speed"]("light").data if trace.error_y.array is not None]
    assert [trace.x[0] for trace in clocked] == [3, 3]


def test_a_point_knows_its_prompt():
    points = [trace for trace in FIGURES["scatter"]("light").data if trace.customdata is not None]
    assert {prompt for trace in points for prompt in trace.customdata} == {EVIL, "p2"}


def test_more_groups_than_symbols_still_look_different():
    frame = pd.concat([prompts().tail(1).assign(group=f"g{i}") for i in range(12)])
    points = [
        t for t in rate_charts.prompt_scatter(frame, "exact", ("A", "B"), "light").data if t.customdata is not None
    ]
    assert len({(t.marker.symbol, t.marker.color) for t in points}) == 12


def test_letters_on_every_colour_of_the_heat_map_can_be_read():
    """WCAG 2.2 asks for a contrast of 4.5."""

    def luminance(colour: str) -> float:
        parts = [value / 255 for value in unlabel_rgb(colour)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for share in np.linspace(0, 1, 41):
        background = theme.shade(float(share))
        above, below = sorted((luminance(background), {"#ffffff": 1.0, "#000000": 0.0}[theme.readable_on(background)]))
        assert (below + 0.05) / (above + 0.05) >= 4.5, background
    maps = [trace for trace in rate_charts.heat_map(cells(), "light").data if trace.type == "heatmap"]
    assert sum(int(np.isfinite(np.array(trace.z, float)).sum()) for trace in maps) == len(cells())
    assert all(trace.textfont.color in ("#000000", "#ffffff") for trace in maps)


def test_one_value_has_a_scale_of_colours_around_it():
    axis = rate_charts.heat_map(cells().iloc[:1], "light").layout.coloraxis
    value = float(cells().value.iloc[0])
    assert (axis.cmin, axis.cmax) == (pytest.approx(value - 0.05), pytest.approx(value + 0.05))


def test_cells_of_the_heat_map_tell_their_size_where_it_differs():
    """A cell of 1,600 queries beside one of 200 says little of the losses."""
    assert "1,600 queries" in rate_charts.heat_map(cells(), "light").to_json()
    assert "queries" not in rate_charts.heat_map(cells().assign(n_train=200.0), "light").to_json()


def test_a_long_name_goes_on_in_another_line_and_leaves_room_for_its_bar():
    long = rated().assign(label=["A · " + "word_" * 24, "B"])
    figure, short = rate_charts.rate_bars(long, "exact", "light"), rate_charts.rate_bars(rated(), "exact", "light")
    lines = figure.data[0].y[0].split("<br>")
    assert max(map(len, lines)) <= 60
    assert "".join(lines[:-1]).replace(" ", "") == long.label.iloc[0].replace(" ", "")
    assert figure.layout.height > short.layout.height


def test_what_a_figure_is_about_goes_on_in_another_line():
    figure = chart_parts.titled("t", "n = 2", "light")
    above = figure.layout.margin.t
    figure = chart_parts.about(
        figure, "a domain with a very long name for customers; target one <b> and another, as well"
    )
    *subject, note = figure.layout.title.subtitle.text.split("<br>")
    assert (len(subject), note) == (2, "n = 2")
    assert "&lt;b&gt;" in " ".join(subject)
    assert figure.layout.margin.t == above + 2 * 16
