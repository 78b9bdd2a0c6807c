"""Figures laid out for print, and the numbers that they show."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from tests.unit.workbench.shared.test_charts import FIGURES
from workbench.shared import chart_parts, printing
from workbench.shared.figure_data import figure_data


def panels() -> go.Figure:
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, subplot_titles=["a", "b", "c"])
    for column in (1, 2, 3):
        figure.add_scatter(x=[1, 2], y=[3, 4], name=f"series {column}", row=1, col=column)
    return chart_parts.dress(figure, "A title", "a note", "light")


@pytest.mark.slow
@pytest.mark.parametrize("size", printing.SIZES)
@pytest.mark.parametrize("name", FIGURES)
def test_no_letters_are_smaller_than_can_be_read(name: str, size: str):
    figure = printing.printable(FIGURES[name]("dark"), size)
    least = 8 * 96 / 72 - 1e-6
    sizes = [figure.layout.font.size, figure.layout.title.font.size, figure.layout.legend.font.size]
    sizes += [axis.tickfont.size for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
    sizes += [one.font.size for one in figure.layout.annotations]
    assert min(sizes) >= least
    assert figure.layout.width == round(printing.SIZES[size].width_in * 96)


def test_a_slide_is_sixteen_to_nine():
    layout = printing.printable(panels(), "slide").layout
    assert layout.width / layout.height == pytest.approx(16 / 9, abs=0.01)


def test_panels_stand_below_each_other_in_one_column_and_side_by_side_in_two():
    narrow, wide = printing.printable(panels(), "column"), printing.printable(panels(), "columns")
    assert [tuple(axis.domain) for axis in narrow.select_xaxes()] == [(0, 1)] * 3
    tops = [axis.domain[1] for axis in narrow.select_yaxes()]
    assert tops == sorted(tops, reverse=True)
    assert len({tuple(axis.domain) for axis in wide.select_xaxes()}) == 3
    assert narrow.layout.height > 2 * wide.layout.height


def test_text_is_broken_between_words_and_loses_none():
    text = "Exact acceptance &lt;b&gt; by method<br>and domain"
    lines = printing.broken(text, 12).split("<br>")
    assert all(len(line) <= 12 or "&" in line for line in lines)
    assert " ".join(lines) == text.replace("<br>", " ")


def cells(figure: go.Figure) -> str:
    """The text in the cells of its heat maps."""
    return str([trace.text for trace in figure.data if trace.type == "heatmap"])


def test_a_heat_map_whose_cells_would_be_cut_shows_the_values_and_says_so():
    cut = printing.printable(FIGURES["map"]("light"), "column")
    assert "queries" in cells(printing.printable(FIGURES["map"]("light"), "page"))
    assert "queries" not in cells(cut)
    assert "0.300" in cells(cut)
    assert "in the figure's data" in cut.layout.title.subtitle.text.replace("<br>", " ")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_its_numbers(name: str):
    figure = FIGURES[name]("light")
    frame = figure_data(figure)
    assert len(frame) > 0
    assert {"x", "y"} <= set(frame.columns)
    assert not frame.map(lambda cell: "<br>" in str(cell) or "&lt;" in str(cell)).to_numpy().any()


def test_the_numbers_are_those_that_are_drawn():
    figure = go.Figure(layout_title_text="t")
    bars = {"type": "data", "array": [0.1, 0.2], "arrayminus": [0.05, 0.1]}
    figure.add_scatter(x=[1, 2], y=[0.5, 0.7], name="a &amp; b", error_y=bars)
    figure.add_heatmap(x=["p", "q"], y=["r"], z=[[1.0, 2.0]], name="map")
    frame = figure_data(figure)
    first, _, third, _ = frame.to_dict("records")
    assert (first["series"], first["x"], first["y"]) == ("a & b", 1, 0.5)
    assert (first["low"], first["high"]) == (pytest.approx(0.45), pytest.approx(0.6))
    assert (third["x"], third["y"], third["value"]) == ("p", "r", 1.0)


def test_a_figure_says_domain_and_target_before_its_note():
    subject = chart_parts.subject(["function_calling", None], ["asset:smollm2 + adapters", "/models/my/llama/"])
    assert subject == "function calling; target smollm2 + adapters, llama"
    assert chart_parts.about(panels(), "<b>").layout.title.subtitle.text == "&lt;b&gt;<br>a note"


def test_a_selection_on_the_page_does_not_fade_what_is_saved():
    figure = go.Figure(
        go.Scatter(x=[1, 2, 3], y=[1, 2, 3], selectedpoints=[1], unselected={"marker": {"opacity": 0.25}}),
        {"selections": [{"type": "rect", "x0": 0, "x1": 1, "y0": 0, "y1": 1}]},
    )
    saved = printing.printable(figure)
    assert saved.data[0].selectedpoints is None
    assert not saved.layout.selections
    assert list(figure.data[0].selectedpoints) == [1], "the page keeps its selection"
