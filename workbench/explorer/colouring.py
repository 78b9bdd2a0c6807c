"""The colour and symbol of each run by a third figure: a scale for numbers, a colour with a symbol for words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from plotly.colors import sample_colorscale

from workbench.shared import chart_parts as parts
from workbench.shared import theme

MOST_VALUES = 14  # colours with symbols that can be told apart in a legend
_FEW_NUMBERS = 6  # numbers of at most so many different values are words
NO_VALUE = "no value"


@dataclass(frozen=True)
class Group:
    """Runs of one value: its name in the legend, its style, and the runs."""

    name: str
    colour: str
    symbol: str
    dash: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class Colouring:
    """`groups` cover all rows. `scale`: the column whose numbers colour the first group, None where values are words.

    `others`: how many values share the last style because there are too many.
    """

    title: str
    groups: list[Group]
    scale: str | None = None
    others: int = 0

    @property
    def range(self) -> tuple[float, float]:
        values = self.groups[0].rows[self.scale].astype(float)
        return float(values.min()), float(values.max())

    def colour_of(self, group: Group, row: pd.Series, tone: str) -> str:
        """The colour of one run."""
        if self.scale is None or group is not self.groups[0]:
            return group.colour
        low, high = self.range
        value = (float(row[self.scale]) - low) / (high - low) if high > low else 0.5
        colour: str = sample_colorscale(scale_on(tone), [min(1.0, max(0.0, value))])[0]
        return colour


def scale_on(tone: str) -> list[list[object]]:
    """The scale of numbers, without the end that cannot be seen on the page's background."""
    low, high = (0.32, 1.0) if tone == "dark" else (0.0, 0.9)
    steps = [place / 8 for place in range(9)]
    return [[place, sample_colorscale(theme.SEQUENTIAL, [low + place * (high - low)])[0]] for place in steps]


def is_number(column: pd.Series) -> bool:
    """Whether a column is drawn as numbers: neither words nor yes and no."""
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def words(column: pd.Series) -> pd.Series[str]:
    """Values as words: 'yes', '0.001', 'no value'."""
    named: pd.Series[str] = column.map(_word)
    return named


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (not isinstance(value, str) and pd.isna(value)):  # type: ignore[call-overload]
        return NO_VALUE
    return f"{value:g}" if isinstance(value, float) else str(value)


def colouring(rows: pd.DataFrame, column: str, title: str) -> Colouring:
    """Divide the rows by a column; one group of all if `column` is ''."""
    if not column:
        return Colouring("", [_group("runs", 0, rows)])
    if is_number(rows[column]) and rows[column].nunique() > _FEW_NUMBERS:
        known = rows[column].notna()
        groups = [_group(title, 0, rows[known])]
        groups += [Group(NO_VALUE, "#9aa5ae", "circle-open", "dot", rows[~known])] if not known.all() else []
        return Colouring(title, groups, scale=column)
    named = words(rows[column])
    order = sorted(named.unique(), key=lambda name: (name == NO_VALUE, _sortable(name)))
    if len(order) > MOST_VALUES:
        order = list(named.value_counts().index[: MOST_VALUES - 1])
    groups = [_group(name, place, rows[named == name]) for place, name in enumerate(order)]
    left = rows[~named.isin(order)]
    others = named[~named.isin(order)].nunique()
    if len(left):
        groups.append(Group(f"{others} other values", "#9aa5ae", "circle-open", "dot", left))
    return Colouring(title, groups, others=others)


def _group(name: str, place: int, rows: pd.DataFrame) -> Group:
    turn = place + place // len(theme.PALETTE)  # the second seven have other symbols than the first
    return Group(name, parts.colour(place), parts.symbol_of(turn), parts.dash_of(turn), rows)


def _sortable(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
