"""Figures laid out for where they are printed: a column of a paper, both columns, a slide.

A page of the workbench is wide and scrolls; a column of a paper is 84 mm. A figure for print gets the width of its
place and letters of a size that can be read there, its title, legend and labels are broken into lines that fit, and
panels that stand side by side on the page stand below each other where they would be too narrow.
"""

from __future__ import annotations

import html
import json
import math
import re
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.shared import theme

_PX = 96  # per inch, of a browser's page
_POINT = _PX / 72
_ON_PAGE = 13  # pixels of the letters of a figure on a page
_LETTER = 0.56  # width of a letter over its height, on average, on the safe side
_LINE = 1.35  # height of a line over that of its letters
_SYMBOL = 46  # pixels of a legend's entry beside its text
_NARROWEST_PANEL = 200  # pixels; panels that would be narrower stand below each other


@dataclass(frozen=True)
class Size:
    """Where a figure is printed. `height_in` is None where the figure's content decides."""

    label: str
    width_in: float
    letters_pt: float
    height_in: float | None = None
    dots_per_in: int = 300  # of a PNG

    @property
    def width(self) -> int:
        """In pixels of a browser's page, which are 1/96 inch in a PDF."""
        return round(self.width_in * _PX)

    @property
    def letters(self) -> float:
        return self.letters_pt * _POINT


SIZES = {
    "page": Size("As here", 9.375, 9.75, dots_per_in=2 * _PX),
    "column": Size("One column (84 mm)", 3.3, 8),
    "columns": Size("Two columns (175 mm)", 6.9, 8),
    "slide": Size("Slide (16:9)", 13.333, 16, 7.5, dots_per_in=144),
}


def printable(figure: go.Figure, size: str = "page") -> go.Figure:
    """A copy for print: dark text on white, even if the figure was drawn for a dark page, laid out for `size`."""
    light, document = theme.TONES["light"], figure.to_json()
    for part, dark in asdict(theme.TONES["dark"]).items():
        document = document.replace(f'"{dark}"', f'"{getattr(light, part)}"')
    copy = go.Figure(json.loads(document))
    copy.update_layout(template=theme.template("light"), paper_bgcolor=light.background, plot_bgcolor=light.background)
    copy.update_layout(title_subtitle_font_color=light.faint)
    copy.layout.selections = ()
    for trace in copy.data:
        if getattr(trace, "selectedpoints", None) is not None:
            trace.selectedpoints = None  # what a visitor has marked on the page does not fade the rest of a figure
    return _laid_out(copy, SIZES[size])


def _laid_out(figure: go.Figure, size: Size) -> go.Figure:
    plot_height = _plot_height(figure) * size.letters / _ON_PAGE
    rows = _stacked(figure, size)
    _shorten_cells(figure, size)
    _set_letters(figure, size)
    _break_labels(figure, size)
    top, below = _title_height(figure, size), _legend_height(figure, size)
    plot_height = rows * max(plot_height, _rows_height(figure, size))
    axis = 4.2 * size.letters  # ticks and title of the horizontal axis
    height = size.height_in * _PX if size.height_in else top + plot_height + axis + below
    # Plotly sets a title of several lines higher than one of a single line
    first = (1.5 if _lines(figure.layout.title.text) > 1 else 0.7) * size.letters
    return figure.update_layout(
        autosize=False,
        width=size.width,
        height=round(height),
        title={"y": 1 - first / height, "yanchor": "top", "yref": "container"},
        margin={
            "t": round(top),
            "b": round(below + axis),
            "l": round(4 * size.letters),
            "r": round(1.5 * size.letters),
        },
    )


def _plot_height(figure: go.Figure) -> float:
    """Pixels of the plot itself on the page, without title and legend."""
    margin = figure.layout.margin
    return max(160.0, (figure.layout.height or 400) - (margin.t or 72) - (margin.b or 48))


# ---- letters --------------------------------------------------------------------------------


def _set_letters(figure: go.Figure, size: Size) -> None:
    """All text in letters that can be read: none is smaller than those of the axes, titles are a little larger."""
    letters = size.letters
    figure.update_layout(
        font_size=letters, legend_font_size=letters, title_font_size=1.15 * letters, title_subtitle_font_size=letters
    )
    figure.update_annotations(font_size=letters)
    figure.update_xaxes(tickfont_size=letters, title_font_size=letters)
    figure.update_yaxes(tickfont_size=letters, title_font_size=letters)
    figure.update_traces(textfont_size=letters, selector={"type": "heatmap"})
    fonts = {"labelfont_size": letters, "tickfont_size": letters, "rangefont_size": letters}
    figure.update_traces(fonts, selector={"type": "parcoords"})
    figure.update_coloraxes(colorbar_tickfont_size=letters, colorbar_title_font_size=letters)


def _break_labels(figure: go.Figure, size: Size) -> None:
    """Title, legend and the labels of the axes in lines that are no longer than there is room for."""
    letters = _letters_in(size.width - 3 * size.letters, size.letters)
    title = figure.layout.title
    if title.text:
        title.text = broken(title.text, int(letters / 1.15))
    if title.subtitle.text:
        title.subtitle.text = broken(title.subtitle.text, letters)
    for trace in figure.data:
        if trace.name:
            trace.name = broken(trace.name, letters - math.ceil(_SYMBOL / (size.letters * _LETTER)))
    columns = len(_panel_axes(figure)) if not _is_stacked(figure) else 1
    across = _letters_in(0.7 * size.width / max(1, columns), size.letters)
    for one in filter(_is_panel_title, figure.layout.annotations):
        one.text = broken(one.text, _letters_in(0.85 * size.width / max(1, columns), size.letters))
    figure.for_each_xaxis(lambda axis: _break_title(axis, across))
    figure.for_each_yaxis(lambda axis: _break_title(axis, 28))
    _break_ticks(figure, max(14, letters * 2 // 5))
    _break_categories(figure, across)


def _break_title(axis: Any, letters: int) -> None:
    if axis.title.text:
        axis.title.text = broken(axis.title.text, letters)


def _break_ticks(figure: go.Figure, letters: int) -> None:
    """Names on the vertical axis: given as labels of the ticks, or as the values themselves."""
    figure.for_each_yaxis(
        lambda axis: (
            axis.update(ticktext=[broken(str(text), letters) for text in axis.ticktext]) if axis.ticktext else None
        )
    )
    for trace in figure.data:
        names = _names(trace, "y")
        if names:
            trace.y = [broken(name, letters) for name in names]


def _break_categories(figure: go.Figure, letters: int) -> None:
    """Names on the horizontal axis, which stand beside each other."""
    count = len({name for trace in figure.data for name in _names(trace, "x")})
    for trace in figure.data:
        names = _names(trace, "x")
        if names:
            trace.x = [broken(name, letters // count) for name in names]


def _names(trace: Any, axis: str) -> list[str]:
    """The values along an axis if they are names; numbers may lie there in Plotly's packed form, a mapping."""
    values = getattr(trace, axis, None)
    names = list(values) if values is not None and not isinstance(values, dict) else []
    return names if all(isinstance(name, str) for name in names) else []


def _shorten_cells(figure: go.Figure, size: Size) -> None:
    """Only the value in a heat map's cells where the rest of a cell's text would not fit; the second line says so."""
    maps = [trace for trace in figure.data if trace.type == "heatmap" and isinstance(trace.text, (list, tuple))]
    texts = [text for trace in maps for line in trace.text for text in line if text]
    panels = 1 if _is_stacked(figure) else len(_panel_axes(figure))
    room = (0.6 if size.width < 500 else 0.8) * size.width / max((len(trace.x) for trace in maps), default=1) / panels
    if max(map(_longest, texts), default=0) * _LETTER * size.letters > room:
        for trace in maps:
            trace.text = [[text.split("<br>")[0] if text else text for text in line] for line in trace.text]
        figure.update_layout(title_subtitle_text="the value alone; intervals and counts are in the figure's data")
    if size.width < 500:
        figure.update_coloraxes(showscale=False)  # the cells have their values


def broken(text: str, letters: int) -> str:
    """The text in lines of about so many letters, with `<br>` between them; words and breaks stay as they are."""
    lines = []
    for line in re.split(r"<br\s*/?>", text):
        plain = html.unescape(line)
        if "<" in line or len(plain) <= letters:  # a line with tags is not taken apart
            lines.append(line)
        else:
            parts = textwrap.wrap(plain, max(8, letters), break_on_hyphens=True)
            lines += [html.escape(part, quote=False) for part in parts]
    return "<br>".join(lines)


def _letters_in(pixels: float, letters: float) -> int:
    return max(8, int(pixels / (letters * _LETTER)))


def _lines(text: str | None) -> int:
    return 0 if not text else len(re.split(r"<br\s*/?>", text))


def _longest(text: str) -> int:
    return max(len(html.unescape(line)) for line in re.split(r"<br\s*/?>", text))


# ---- room -----------------------------------------------------------------------------------


def _rows_height(figure: go.Figure, size: Size) -> float:
    """Pixels that names on the vertical axis need, each in its lines."""
    named = [list(axis.ticktext) for axis in figure.select_yaxes() if axis.ticktext]
    named += [list(dict.fromkeys(_names(trace, "y"))) for trace in figure.data]
    every = dict.fromkeys(name for names in named for name in names)
    lines = max((_lines(str(name)) for name in every), default=1)
    return max(len(every), 1) * (lines + 0.35) * _LINE * size.letters if every else 0.0


def _title_height(figure: go.Figure, size: Size) -> float:
    """Pixels above the plot: title, second line, and the titles of panels, which stand right above the plot."""
    title = figure.layout.title
    lines = 1.15 * _lines(title.text) + _lines(title.subtitle.text)
    above = [one for one in figure.layout.annotations if one.yref == "paper" and (one.y or 0) >= 1]
    panels = max((_lines(one.text) for one in above), default=0)
    return (lines + 1.6 + 1.3 * panels) * _LINE * size.letters


def _legend_height(figure: go.Figure, size: Size) -> float:
    """Pixels of a legend below the plot: Plotly sets its entries in columns as wide as the widest."""
    shown = [trace for trace in figure.data if trace.name and getattr(trace, "showlegend", None) is not False]
    if figure.layout.showlegend is False or not shown or (len(shown) < 2 and not figure.layout.showlegend):
        return 0.0
    widest = max(_longest(trace.name) for trace in shown) * _LETTER * size.letters + _SYMBOL
    rows = math.ceil(len(shown) / max(1, int(size.width / widest)))
    return (rows * max(_lines(trace.name) for trace in shown) + 0.6) * _LINE * size.letters * 1.1


# ---- panels ---------------------------------------------------------------------------------


def _panel_axes(figure: go.Figure) -> list[str]:
    """Numbers of the panels' axes ('', '2', ...) where panels stand side by side; one figure has one."""
    names = [name.removeprefix("xaxis") for name in figure.layout.to_plotly_json() if name.startswith("xaxis")]
    return sorted(names, key=lambda name: int(name or 1)) or [""]


def _is_stacked(figure: go.Figure) -> bool:
    return bool(figure.layout.meta and figure.layout.meta.get("stacked"))


def _is_panel_title(annotation: Any) -> bool:
    return annotation.xref == "paper" and annotation.yref == "paper" and annotation.showarrow is False


def _stacked(figure: go.Figure, size: Size) -> int:
    """Set panels below each other where they would be too narrow; returns how many rows there are then."""
    numbers = _panel_axes(figure)
    if _is_stacked(figure) or len(numbers) < 2 or size.width / len(numbers) >= _NARROWEST_PANEL:
        return 1
    titles = [one for one in figure.layout.annotations if _is_panel_title(one)]
    gap = 0.34 / len(numbers)
    height = (1 - gap * (len(numbers) - 1)) / len(numbers)
    for place, number in enumerate(numbers):
        top = 1 - place * (height + gap)
        last = place == len(numbers) - 1
        figure.layout[f"xaxis{number}"].update(domain=[0, 1], showticklabels=True)
        figure.layout[f"yaxis{number}"].update(domain=[max(0, top - height), top], showticklabels=True)
        if not last:
            figure.layout[f"xaxis{number}"].update(title={"text": None})
        if place < len(titles):
            titles[place].update(x=0.5, y=top, xanchor="center", yanchor="bottom")
    figure.update_layout(meta={"stacked": True})
    return len(numbers)
