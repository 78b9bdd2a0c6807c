"""Charts and tables as files to download: SVG, PNG and PDF through Chrome, CSV and LaTeX."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT
from workbench.shared import theme

MIME = {"svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf"}
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_SCALE = {"svg": 1, "pdf": 1, "png": 2}
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
    "·": r"\textperiodcentered{}",
    "…": r"\ldots{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_FORMULA = re.compile(r"[=+\-@\t\r]")


def chrome() -> str | None:
    """The path of Chrome or Chromium: `BROWSER_PATH`, or an installed one; None if there is none."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).is_file() else None
    installed = next((path for name in _NAMES if (path := shutil.which(name))), None)
    return installed or next((place for place in _PLACES if Path(place).is_file()), None)


def figure_bytes(figure: go.Figure, kind: str, *, timeout_s: float = 60) -> bytes:
    """Render a figure as SVG, PNG or PDF on white. Raises DraftbenchError if Chrome is missing or hangs."""
    return figures_bytes([figure], kind, timeout_s=timeout_s)[0]


def figures_bytes(figures: Sequence[go.Figure], kind: str, *, timeout_s: float = 60) -> list[bytes]:
    """Render several figures with one start of Chrome, which takes most of the time."""
    if kind not in MIME:
        raise DraftbenchError(f"a figure cannot be saved as {kind!r}", "", f"known: {', '.join(MIME)}")
    browser = chrome()
    if browser is None:
        raise DraftbenchError(
            f"Chrome or Chromium is missing, which renders the {kind.upper()}",
            "the server renders charts to files with it",
            "install Chromium or set BROWSER_PATH, or save an SVG or PNG with the chart's own camera button",
        )
    jobs = [{"figure": printable(figure).to_plotly_json(), "kind": kind, "scale": _SCALE[kind]} for figure in figures]
    answer = _run(json.dumps(jobs, cls=_encoder()), browser, timeout_s)
    try:
        return [base64.b64decode(item) for item in json.loads(answer)]
    except (ValueError, binascii.Error):
        raise _failed("its output is not what was expected") from None


def printable(figure: go.Figure) -> go.Figure:
    """A copy for print: dark text on white, even if the figure was drawn for a dark page."""
    light, document = theme.TONES["light"], figure.to_json()
    for part, dark in asdict(theme.TONES["dark"]).items():
        document = document.replace(f'"{dark}"', f'"{getattr(light, part)}"')
    copy = go.Figure(json.loads(document))
    copy.update_layout(template=theme.template("light"), paper_bgcolor=light.background, plot_bgcolor=light.background)
    return copy.update_layout(margin_l=70, title_subtitle_font_color=light.faint)


def csv(frame: pd.DataFrame) -> bytes:
    """The frame as CSV in UTF-8. An apostrophe precedes text that a spreadsheet would take for a formula."""
    return frame.map(_no_formula).rename(columns=_no_formula).to_csv(index=False).encode("utf-8")


def latex(frame: pd.DataFrame, caption: str) -> str:
    """The frame as a booktabs table for a paper, with three decimals and all text escaped."""
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    lines = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in frame.itertuples(index=False, name=None)]
    head = " & ".join(_tex(column) for column in frame.columns) + r" \\"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(caption)}}}",
            rf"  \begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
            r"    \toprule",
            f"    {head}",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def download_row(
    name: str,
    key: str,
    *,
    draw: Callable[[str], go.Figure] | None = None,
    frame: pd.DataFrame | None = None,
    paper: pd.DataFrame | None = None,
    caption: str = "",
) -> None:
    """Draw buttons that save a chart as SVG, PNG or PDF and its data as CSV or LaTeX; files are made on click.

    `draw` draws the chart for a tone; files always use the light one. `paper` is a narrower table for LaTeX
    where `frame` is too wide for a page.
    """
    with st.container(horizontal=True, gap="small"):
        if draw is not None and chrome() is None:
            st.caption("Save an SVG or PNG with the chart's camera button. PDF needs Chrome or Chromium on the server.")
        elif draw is not None:
            for kind in MIME:
                _button(kind.upper(), _drawing(draw, kind), f"{name}.{kind}", MIME[kind], f"{key}-{kind}")
        if frame is not None:
            _button("CSV", lambda: csv(frame), f"{name}.csv", "text/csv", f"{key}-csv")
            _button(
                "LaTeX",
                lambda: latex(frame if paper is None else paper, caption),
                f"{name}.tex",
                "application/x-tex",
                f"{key}-tex",
            )


def _button(label: str, make: Callable[[], bytes | str], file_name: str, mime: str, key: str) -> None:
    st.download_button(
        label, make, file_name, mime, key=f"save-{key}", on_click="ignore", type="tertiary", icon=":material/download:"
    )


def _drawing(draw: Callable[[str], go.Figure], kind: str) -> Callable[[], bytes]:
    return lambda: figure_bytes(draw("light"), kind)


def _encoder() -> type[json.JSONEncoder]:
    from plotly.utils import PlotlyJSONEncoder

    encoder: type[json.JSONEncoder] = PlotlyJSONEncoder
    return encoder


def _run(jobs: str, browser: str, timeout_s: float) -> str:
    """Run the rendering process and its Chrome; both are killed after `timeout_s`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.shared.kaleido_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=PROJECT_ROOT,
        env={**os.environ, "BROWSER_PATH": browser},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(jobs, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise _failed(f"it took longer than {timeout_s:g} s") from None
    if process.returncode != 0:
        _end(process)
        last = err.strip().splitlines()[-1:] or ["it gave no reason"]
        raise _failed(last[0][:300])
    return out


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)


def _failed(why: str) -> DraftbenchError:
    return DraftbenchError(
        "Chrome could not render the figure", why, "try again, or save an SVG with the chart's own camera button"
    )


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _tex(value: object) -> str:
    if isinstance(value, float):
        return "--" if pd.isna(value) else f"{value:.3f}"
    if value is None:
        return "--"
    return "".join(_LATEX.get(c, c) for c in str(value).replace("\n", " "))
