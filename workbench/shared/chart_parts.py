"""Parts of figures: title and legend, the style of a series, error bars, hover texts. All text is escaped here."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from engine.index.queries import Run
from engine.measure.definitions import RATES
from engine.numbers import LEAST_PROMPTS, too_few
from workbench.shared import theme

INTERVAL = "95% interval over prompts"
HOVER = "%{hovertext}<extra></extra>"  # user text is passed as data, never as a template

_LINE_PX = 16  # height of a line of the second title
_LINE_LETTERS = 68  # of a line in a figure of half the page, or on a telephone
_PATTERNS = ("", "/", ".", "x", "-", "+", "\\")


def titled(title: str, note: str, tone: str) -> go.Figure:
    return dress(go.Figure(), title, note, tone)


def dress(figure: go.Figure, title: str, note: str, tone: str) -> go.Figure:
    """Set the title (with n and interval in its second line), the template, and the legend below the plot."""
    second = {"text": note, "font": {"size": 12, "color": theme.TONES[tone].faint}}
    figure.update_layout(
        template=theme.template(tone),
        height=400,
        margin={"t": 78, "b": 64},
        title={"text": title, "subtitle": second, "y": 0.97, "yanchor": "top", "yref": "container"},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    )
    return figure


def about(figure: go.Figure, subject: str) -> go.Figure:
    """The figure with what it is about, domain and target, in a line above its second: it must say so in a paper."""
    words = textwrap.wrap(subject, _LINE_LETTERS, break_on_hyphens=False)
    lines = [line for line in (*map(safe, words), figure.layout.title.subtitle.text) if line]
    shown = "<br>".join(lines)
    margin = figure.layout.margin.t + _LINE_PX * shown.count("<br>")
    return figure.update_layout(title_subtitle_text=shown, margin_t=margin)


def subject(domains: Iterable[object], targets: Iterable[object]) -> str:
    """'biology; target smollm2-135m-instruct + biology'; several of either are listed."""
    names = dict.fromkeys(short_target(target) for target in targets if known(target))
    where = dict.fromkeys(str(domain).replace("_", " ") for domain in domains if known(domain))
    return "; ".join(filter(None, [", ".join(where), f"target {', '.join(names)}" if names else ""]))


def of_run(run: Run) -> str:
    """'biology; target smollm2-135m-instruct + biology; run serve-biology-...': what a figure of one run is about."""
    return "; ".join(filter(None, [subject([run.domain], [run.target]), f"run {run.run_id}"]))


def short_target(target: object) -> str:
    """A target's name without where it comes from: no 'asset:' before it, and no folders."""
    name = re.sub(r"^[a-z]+:", "", str(target)).rstrip("/")
    return name.rsplit("/", 1)[-1]


def panels(figure: go.Figure) -> go.Figure:
    """Make room for the panels' titles below the figure's."""
    figure.update_annotations(font_size=12.5)
    return figure.update_layout(margin={"t": 104})


def safe(value: object) -> str:
    return html.escape(str(value), quote=False).replace("\n", " ")  # Plotly reads &lt; but shows &quot; as it is


def shortened(value: object, longest: int = 90) -> str:
    words = "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
    return words if len(words) <= longest else words[: longest - 1] + "…"


def unit(metric: str) -> str:
    return "" if RATES[metric].per_forward else " (fraction)"


def colour(place: int) -> str:
    return theme.PALETTE[place % len(theme.PALETTE)]


def dash_of(place: int) -> str:
    return theme.DASHES[place % len(theme.DASHES)]


def symbol_of(place: int) -> str:
    return theme.SYMBOLS[place % len(theme.SYMBOLS)]


def filled(place: int, tone: str) -> dict[str, Any]:
    """A bar's colour and pattern."""
    pattern = {
        "shape": _PATTERNS[place % len(_PATTERNS)],
        "fillmode": "overlay",
        "size": 7,
        "fgcolor": theme.TONES[tone].background,
        "fgopacity": 0.6,
    }
    return {"color": colour(place), "pattern": pattern}


def known(*values: Any) -> bool:
    return all(value is not None and not pd.isna(value) for value in values)


def error_bar(row: Any) -> dict[str, Any] | None:
    """The interval of one value as an asymmetric error bar."""
    if not bounds(row.low, row.high, n=_prompts(row)):
        return None
    return {
        "type": "data",
        "array": [row.high - row.value],
        "arrayminus": [row.value - row.low],
        "thickness": 1.6,
        "width": 5,
    }


def error_bars(part: pd.DataFrame) -> dict[str, Any] | None:
    """The intervals of some values as error bars; a value without one has no bar, None where no value has one."""
    shown = has_interval(part)
    if not shown.any():
        return None
    above, below = (part.high - part.value).where(shown), (part.value - part.low).where(shown)
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1.3, "width": 4}


def has_interval(part: pd.DataFrame) -> pd.Series[bool]:
    """Which rows have an interval to draw: bounds, and prompts enough for them."""
    rows = zip(part.low, part.high, part.n_prompts if "n_prompts" in part else [None] * len(part), strict=True)
    return pd.Series([bool(bounds(low, high, n=n)) for low, high, n in rows], part.index, dtype=bool)


def interval_note(part: pd.DataFrame) -> str:
    """What the second line of a title says of intervals: that they are drawn, where, or why none is."""
    shown = has_interval(part)
    if shown.all() and len(part):
        return INTERVAL
    few = "n_prompts" in part and any(too_few(n) for n in part.n_prompts[part.value.notna()])
    none = f"none of fewer than {LEAST_PROMPTS} prompts" if few else "none where it is not known"
    return f"{INTERVAL}, {none}" if shown.any() else "no interval" + (": too few prompts" if few else "")


def bounds(low: Any, high: Any, digits: int = 3, sign: str = "", n: Any = None) -> str:
    """'[0.390, 0.433]', or '' where there is no interval or `n` prompts are too few; `sign="+"` writes both signs."""
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if known(low, high) and not too_few(n) else ""


def with_interval(row: Any, digits: int = 3) -> str:
    return f"{row.value:.{digits}f} {bounds(row.low, row.high, digits, n=_prompts(row))}".rstrip()


def _prompts(row: Any) -> Any:
    return getattr(row, "n_prompts", None)


def hover(name: str, row: Any) -> str:
    """A hover text: name, value with interval, n."""
    counts = [f"n = {row.n_prompts:.0f} prompts" if known(getattr(row, "n_prompts", None)) else ""]
    counts += [f"{row.n_tokens:,.0f} tokens" if known(getattr(row, "n_tokens", None)) else ""]
    return "<br>".join(filter(None, [name, with_interval(row), ", ".join(filter(None, counts))]))


def cell_text(cell: Any, *, size: bool = False) -> str:
    """The text of a heat map cell: value, interval, number of runs, prompts and, with `size`, training queries."""
    if cell is None:
        return ""
    within = bounds(cell.low, cell.high, n=cell.n_prompts)
    within = f"<br>{within}" if within else ""
    runs = "1 run" if cell.runs == 1 else f"{cell.runs} runs, {cell.seeds} seed{'s' if cell.seeds != 1 else ''}"
    other = f"<br>{cell.sets} held-out sets" if cell.sets > 1 else ""
    queries = f"<br>{cell.n_train:,.0f} queries" if size and known(cell.n_train) else ""
    return f"<b>{cell.value:.3f}</b>{within}<br>{runs}, n = {cell.n_prompts:.0f}{other}{queries}"


def cell_hover(cell: Any) -> str:
    if cell is None:
        return ""
    spread = (
        f"<br>mean over its runs ({cell.least:.3f} to {cell.most:.3f}) and over their intervals"
        if cell.runs > 1
        else ""
    )
    other = "<br>measured on different held-out prompts" if cell.sets > 1 else ""
    return f"{safe(cell.loss)}, {safe(cell.scenario)}, {safe(cell.mode)}<br>{cell_text(cell)}{spread}{other}"
