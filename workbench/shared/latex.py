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
_HEADINGS = {
    "label": "draft",
    "metric": "rate",
    "n_prompts": "n",
    "n_tokens": "tokens",
    "before": "before training",
    "delta": "Δ",
    "delta_low": "Δ low",
    "delta_high": "Δ high",
    "delta_prompts": "n of change",
    "baseline_there": "baseline on the same prompts",
}
_COUNTS = ("n", "n_prompts", "n_tokens", "delta_prompts", "seed", "steps", "runs", "seeds", "T", "temperature")
_NAMES = ("label", "draft", "title", "name")
_IDS = ("run_id", "run_ids")
_NUMBER = r"[+\-−]?\d+(?:[.,]\d+)*(?:e[+\-−]?\d+)?"
_UNBROKEN = re.compile(rf"\[{_NUMBER}, {_NUMBER}\]|(?<![\w.\-]){_NUMBER}(?![\w])")  # is never broken
_MINUS = re.compile(r"(?<![\w.\-])-(?=\.?\d)|(?<=\de)-(?=\d)")
_MOST_LINES = 48  # of a table, which cannot be longer than its page


def latex(frame: pd.DataFrame, caption: str) -> str:
    """The frame as booktabs tables for a two-column page, with three decimals and all text escaped.

    Ids of runs and columns without a value are left out; headings are words. What is the same in every row is said in
    the caption instead of in a column. A table that is too wide for one column spans both; long text is broken into
    lines, never inside a number or an interval; what is wider still, or longer than a page, becomes several tables,
    the first column in each.
    """
    varying, same = _without_the_same(_plain_columns(frame))
    said = caption + (
        f". All rows: {', '.join(f'{name} {_plain(value)}' for name, value in same.items())}" if same else ""
    )
    tables = [
        _table(part, said if number == 0 else f"{said} (continued)")
        for columns in _groups(varying)
        for number, part in enumerate(_pages(varying.iloc[:, columns]))
    ]
    return "% needs \\usepackage{booktabs,array}\n" + "\n".join(tables)


def _plain_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as a reader wants it: no ids beside names, no empty column, whole numbers whole, headings in words."""
    named = any(name in _NAMES for name in frame.columns)
    kept = frame.drop(columns=[name for name in frame.columns if named and name in _IDS])
    if len(kept):
        empty = [place and kept.iloc[:, place].map(_plain).isin(["", "--"]).all() for place in range(kept.shape[1])]
        kept = kept.loc[:, [not one for one in empty]]
    columns = {place: _whole(kept.iloc[:, place]) for place in range(kept.shape[1])}
    words = [_heading(str(name)) for name in kept.columns]
    return pd.DataFrame(columns).set_axis(words, axis=1)


def _heading(name: str) -> str:
    """A column's name in words; what is no name of the project's own, as a draft's, stays."""
    return _HEADINGS.get(name) or (name.replace("_", " ") if re.fullmatch(r"[a-z][a-z0-9_]*", name) else name)


def _whole(column: pd.Series) -> pd.Series:
    """Numbers that all are whole as such: 60 prompts, not 60.000. 0.0 and 1.0 alone may be shares and stay."""
    if not pd.api.types.is_float_dtype(column.dtype):
        return column
    known = column.dropna()
    counts = len(known) and bool((known % 1 == 0).all()) and (known.abs().max() > 1 or str(column.name) in _COUNTS)
    return column.astype("Int64") if counts else column


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
    least = _least_widths(frame)
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


def _least_widths(frame: pd.DataFrame) -> list[float]:
    """The least width of each column, mm: text is broken into lines, but never inside a number or an interval."""
    least = []
    for place, natural in enumerate(_widths(frame)):
        wholes = [len(found) for cell in frame.iloc[:, place].map(_plain) for found in _UNBROKEN.findall(cell)]
        text = min(natural, max(_NARROWEST_MM, _LETTER_MM * max(wholes, default=0)))
        least.append(text if _is_text(frame, place) else natural)
    return least


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
    return _capped(natural, _least_widths(frame), room)


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


def _capped(natural: Sequence[float], least: Sequence[float], room: float) -> list[float]:
    """The widths, those of the widest columns cut down, to no less than their `least`, so that all fit into `room`."""
    widths = list(natural)
    while sum(widths) > room + 1e-6:
        wide = [place for place, width in enumerate(widths) if width > least[place] + 1e-6]
        if not wide:
            return widths
        most = max(widths[place] for place in wide) - 1.0
        widths = [max(least[place], min(width, most)) if place in wide else width for place, width in enumerate(widths)]
    return widths


def _row(cells: Sequence[object], broken: Sequence[bool]) -> str:
    texts = [_breakable(_tex(cell)) if may else _tex(cell) for cell, may in zip(cells, broken, strict=True)]
    return " & ".join(texts) + r" \\"


def _breakable(text: str) -> str:
    """Names of runs and files have no blanks to break a line at; a number stays whole."""
    edge = r"(\\_|/|(?<=\w)[-=](?=\w)(?<!\de-)|(?<=\w)[.,:](?=\w)(?<!\d[.,:](?=\d)))"
    return re.sub(edge, r"\1\\allowbreak{}", text)


def _plain(value: object) -> str:
    """A cell as text: three decimals, a dash for what is missing."""
    if isinstance(value, float):
        return "--" if pd.isna(value) else f"{value:.3f}"
    return "--" if value is None or value is pd.NaT or value is pd.NA else str(value).replace("\n", " ")


def _tex(value: object) -> str:
    text = _MINUS.sub("−", _plain(value))
    escaped = "".join(_LATEX.get(c, c) for c in text)
    return re.sub(r"(\[[^][ ]*\d,) (?=[^][ ]*\d\])", r"\1~", escaped)  # no line ends inside an interval
