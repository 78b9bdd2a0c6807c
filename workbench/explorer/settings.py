"""How much each setting matters for a figure: a bar with its interval, what it adds, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.explore.figures import Figure
from engine.explore.importance import LARGE, SURE, Importance, importance
from engine.numbers import number
from workbench.shared import chart_parts as parts
from workbench.shared import theme

SENTENCE = (
    "A bar is the share of the differences between these runs that a setting explains by itself (the first-order "
    "effect of an analysis of variance, corrected for chance), with its 95% interval; a setting that never changes "
    "without others cannot be told apart from them."
)
_HOVER = "%{hovertext}<extra></extra>"
_MARKS = {"large effect": 0, "small effect": 5, "no effect seen": 6, "cannot be told apart": 4}  # place in the palette


@st.cache_data(max_entries=64, show_spinner=False)
def importances(rows: pd.DataFrame, outcome: str, settings: tuple[str, ...]) -> list[Importance]:
    """`engine.explore.importance`, kept."""
    return importance(rows, outcome, settings)


def draw(results: Sequence[Importance], titles: Mapping[str, str], outcome: Figure, n: int, tone: str) -> go.Figure:
    """Draw a bar per setting, patterned by its verdict."""
    title = f"Share of the differences in {outcome.title} by setting"
    intervals = pd.DataFrame([result.alone.as_dict() for result in results], columns=["value", "low", "high"])
    kind = "95% interval, noncentral F" if parts.has_interval(intervals).any() else "no interval"
    figure = parts.titled(parts.safe(title), f"n = {n} runs; {kind}", tone)
    for verdict, place in _MARKS.items():
        shown = [result for result in results if result.verdict == verdict]
        frame = pd.DataFrame([result.alone.as_dict() for result in shown], columns=["value", "low", "high"])
        figure.add_bar(
            y=[parts.safe(parts.shortened(name_of(result, titles), 60)) for result in shown],
            x=frame.value,
            orientation="h",
            name=verdict,
            marker=parts.filled(place, tone),
            error_x={**(parts.error_bars(frame) or {}), "color": theme.TONES[tone].text},
            hovertemplate=_HOVER,
            hovertext=[
                f"{parts.safe(name_of(result, titles))}<br>alone {_percent(result.alone.value)} "
                f"[{_percent(result.alone.low)}, {_percent(result.alone.high)}]<br>{parts.safe(words(result, titles))}"
                for result in shown
            ],
        )
    order = [parts.safe(parts.shortened(name_of(result, titles), 60)) for result in results]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order[::-1], showgrid=False)
    figure.update_xaxes(range=[0, 1], tickformat=".0%", title="share of the variance between runs")
    return figure.update_layout(height=190 + 34 * len(results), showlegend=True, barmode="overlay")


def name_of(result: Importance, titles: Mapping[str, str]) -> str:
    """'Mode of training (always with Stream)'."""
    first, *others = (titles.get(name, name) for name in result.names)
    if not others:
        return first
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{first} (always with {others[0]}{more})"


def words(result: Importance, titles: Mapping[str, str]) -> str:
    """The verdict with its reason, settings by their names for people."""
    reason = result.why
    for name in sorted(titles, key=len, reverse=True):
        if reason.endswith(f" {name}"):
            reason = reason.removesuffix(name) + titles[name]
            break
    return f"{result.verdict}: {reason}" if reason else result.verdict


def verdicts_in_words(n: int) -> str:
    """What the verdicts on `n` settings say, with their thresholds."""
    return (
        f"Large effect: at least {LARGE:.0%} of the differences; small effect: less. Both add to what the other "
        f"settings explain together, at a chance of {SURE:.1%} for a setting without effect; of {n} such settings "
        f"{n * SURE:.1f} would seem to have one. Cannot be told apart: it may have any effect, which these runs do not "
        "tell from another setting's. Runs are taken as independent."
    )


def repeats_no_seed(rows: pd.DataFrame, settings: Sequence[str]) -> bool:
    """Whether no two runs are equal in all settings but the seed. `rows`: of the wide table."""
    own = rows[[name for name in settings if name != "seed"]].astype(object)
    return not own.where(own.notna(), None).map(str).duplicated().any()


def table(results: Sequence[Importance], titles: Mapping[str, str], unit: str = "") -> pd.DataFrame:
    """A row per setting, as the page and its files show it. `unit`: of the figure, as 'acceptance'."""
    difference = "largest difference of means" + (f" ({unit})" if unit else "")
    return pd.DataFrame(
        {
            "setting": ", ".join(titles.get(name, name) for name in result.names),
            "values": f"{result.levels} ranges" if result.ranges else str(result.levels),
            "explains alone": f"{_percent(result.alone.value)} [{_percent(result.alone.low)}, "
            f"{_percent(result.alone.high)}]",
            difference: f"{number(result.difference, 3)}",
            "adds to the others": _percent(result.beyond),
            "verdict": words(result, titles),
        }
        for result in results
    )


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{number(100 * value, 0)}%"
