"""Tables for a paper: booktabs, as narrow as they can be, and never wider than the page they are for."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import pandas as pd

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
COLUMN_MM, PAGE_MM = 84.0, 175.0  # one column and both of a usual two-column page
_LETTER_MM = 1.62  # of \footnotesize, on the safe side
_GAP_MM = 2.2  # \tabcolsep on both sides of a column
_NARROWEST_MM = 15.0  # of a column of text that is broken into lines
_MOST_LINES = 48  # of a table, which cannot be longer than its page


def latex(frame: pd.DataFrame, caption: str) -> str:
    """The frame as booktabs tables for a two-column page, with three decimals and all text escaped.

    What is the same in every row is said in the caption instead of in a column. A table that is too wide for one column
    spans both; long text is broken into lines; what is wider still, or longer than a page, becomes several tables, the
    first column in each.
    """
    varying, same = _without_the_same(frame)
    said = caption + (
        f". All rows: {', '.join(f'{name} {_plain(value)}' for name, value in same.items())}" if same else ""
    )
    tables = [
        _table(part, said if number == 0 else f"{said} (continued)")
        for columns in _groups(varying)
        for number, part in enumerate(_pages(varying.iloc[:, columns]))
    ]
    return "% needs \\usepackage{booktabs,array}\n" + "\n".join(tables)


def _without_the_same(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, object]]:
    """The frame without the columns that have one value in all of several rows, and those values."""
    if len(frame) < 2:
        return frame, {}
    same: dict[str, object] = {
        str(name): frame.iloc[0, place]
        for place, name in enumerate(frame.columns)
        if place and frame.iloc[:, place].map(_plain).nunique() == 1 and len(_plain(frame.iloc[0, place])) <= 30
    }
    return frame.drop(columns=list(same)), same


def _groups(frame: pd.DataFrame) -> list[list[int]]:
    """Numbers of the columns of each table: as few tables as fit the width of the page, the first column in each."""
    least = [
        min(width, _NARROWEST_MM) if _is_text(frame, place) else width for place, width in enumerate(_widths(frame))
    ]
    groups: list[list[int]] = [[0]] if len(least) else [[]]
    for place in range(1, len(least)):
        if sum(least[one] + _GAP_MM for one in [*groups[-1], place]) > PAGE_MM and len(groups[-1]) > 1:
            groups.append([0])
        groups[-1].append(place)
    return groups


def _widths(frame: pd.DataFrame) -> list[float]:
    """Natural width of each column, mm."""
    cells = [[str(name), *frame.iloc[:, place].map(_plain)] for place, name in enumerate(frame.columns)]
    return [_LETTER_MM * max(map(len, column)) for column in cells]


def _is_text(frame: pd.DataFrame, place: int) -> bool:
    return not pd.api.types.is_numeric_dtype(frame.dtypes.iloc[place])


def _pages(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows in parts that are no longer than a page, each row in the lines that its longest cell takes."""
    widths, ends, lines = _set_widths(frame), [0], 0
    for number, row in enumerate(frame.itertuples(index=False, name=None)):
        cells = zip(map(_plain, row), widths, strict=True)
        tall = max((math.ceil(1.1 * _LETTER_MM * len(cell) / width) for cell, width in cells if cell), default=1)
        if lines + tall > _MOST_LINES and lines:
            ends.append(number)
            lines = 0
        lines += tall
    return [frame.iloc[first:last] for first, last in itertools.pairwise([*ends, len(frame)])]


def _set_widths(frame: pd.DataFrame) -> list[float]:
    """The width that each column is set in, mm."""
    natural = _widths(frame)
    room = PAGE_MM - _GAP_MM * max(0, len(natural) - 1)
    return _capped(natural, [_is_text(frame, place) for place in range(len(natural))], room)


def _table(frame: pd.DataFrame, caption: str) -> str:
    natural, widths = _widths(frame), _set_widths(frame)
    star = "" if sum(natural) + _GAP_MM * max(0, len(natural) - 1) <= COLUMN_MM else "*"
    kinds = [
        rf">{{\raggedright\arraybackslash}}p{{{width:.1f}mm}}"
        if width < wanted
        else "l"
        if _is_text(frame, place)
        else "r"
        for place, (width, wanted) in enumerate(zip(widths, natural, strict=True))
    ]
    broken = [kind.startswith(">") for kind in kinds]
    rows = [_row(row, broken) for row in frame.itertuples(index=False, name=None)]
    return "\n".join(
        [
            rf"\begin{{table{star}}}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"  \caption{{{_tex(caption)}}}",
            rf"  \begin{{tabular}}{{@{{}}{''.join(kinds)}@{{}}}}",
            r"    \toprule",
            f"    {_row([str(name) for name in frame.columns], broken)}",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            rf"\end{{table{star}}}",
            "",
        ]
    )


def _capped(natural: Sequence[float], is_text: Sequence[bool], room: float) -> list[float]:
    """The widths, those of the widest columns of text cut down to one width so that all fit into `room`."""
    widths = list(natural)
    while sum(widths) > room + 1e-6:
        broken = [place for place, text in enumerate(is_text) if text and natural[place] > _NARROWEST_MM]
        if not broken:
            return widths
        widest = max(widths[place] for place in broken)
        if widest <= _NARROWEST_MM:
            return widths
        for place in broken:
            widths[place] = min(widths[place], max(_NARROWEST_MM, widest - 1.0))
    return widths


def _row(cells: Sequence[object], broken: Sequence[bool]) -> str:
    texts = [_breakable(_tex(cell)) if may else _tex(cell) for cell, may in zip(cells, broken, strict=True)]
    return " & ".join(texts) + r" \\"


def _breakable(text: str) -> str:
    """Names of runs and files have no blanks to break a line at."""
    return re.sub(r"(\\_|/|(?<=\w)[-.=,:](?=\w))", r"\1\\allowbreak{}", text)


def _plain(value: object) -> str:
    """A cell as text: three decimals, a dash for what is missing."""
    if isinstance(value, float):
        return "--" if pd.isna(value) else f"{value:.3f}"
    return "--" if value is None or value is pd.NaT or value is pd.NA else str(value).replace("\n", " ")


def _tex(value: object) -> str:
    return "".join(_LATEX.get(c, c) for c in _plain(value))
