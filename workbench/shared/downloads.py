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
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT
from workbench.shared.figure_data import figure_data
from workbench.shared.latex import latex
from workbench.shared.printing import SIZES, printable

_PRINT_SIZE = "print_size"  # session state: a key of `printing.SIZES`
MIME = {"svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf"}
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_FORMULA = re.compile(r"[=+\-@\t\r]")


def chrome() -> str | None:
    """The path of Chrome or Chromium: `BROWSER_PATH`, or an installed one; None if there is none."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).is_file() else None
    installed = next((path for name in _NAMES if (path := shutil.which(name))), None)
    return installed or next((place for place in _PLACES if Path(place).is_file()), None)


def figure_bytes(figure: go.Figure, kind: str, size: str = "page", *, timeout_s: float = 60) -> bytes:
    """Render a figure as SVG, PNG or PDF on white, laid out for a size of `printing.SIZES`.

    Raises DraftbenchError if Chrome is missing or hangs.
    """
    return figures_bytes([figure], kind, size, timeout_s=timeout_s)[0]


def figures_bytes(figures: Sequence[go.Figure], kind: str, size: str = "page", *, timeout_s: float = 60) -> list[bytes]:
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
    scale = SIZES[size].dots_per_in / 96 if kind == "png" else 1  # 96 pixels of a page are an inch
    jobs = [{"figure": printable(one, size).to_plotly_json(), "kind": kind, "scale": scale} for one in figures]
    answer = _run(json.dumps(jobs, cls=_encoder()), browser, timeout_s)
    try:
        return [base64.b64decode(item) for item in json.loads(answer)]
    except (ValueError, binascii.Error):
        raise _failed("its output is not what was expected") from None


def csv(frame: pd.DataFrame) -> bytes:
    """The frame as CSV in UTF-8. An apostrophe precedes text that a spreadsheet would take for a formula."""
    return frame.map(_no_formula).rename(columns=_no_formula).to_csv(index=False).encode("utf-8")


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

    `draw` draws the chart for a tone; files always use the light one, in the width that the visitor chose. Without
    `frame` the CSV has what the chart draws. `paper` is a narrower table for LaTeX where `frame` has more than a paper
    shows.
    """
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        if draw is not None and chrome() is None:
            st.caption("Save an SVG or PNG with the chart's camera button. PDF needs Chrome or Chromium on the server.")
        elif draw is not None:
            size = _choose_size(key)
            suffix = "" if size == "page" else f"-{size}"
            for kind in MIME:
                _button(kind.upper(), _drawing(draw, kind, size), f"{name}{suffix}.{kind}", MIME[kind], f"{key}-{kind}")
        if frame is not None:
            _button("CSV", lambda: csv(frame), f"{name}.csv", "text/csv", f"{key}-csv")
            _button(
                "LaTeX",
                lambda: latex(frame if paper is None else paper, caption),
                f"{name}.tex",
                "application/x-tex",
                f"{key}-tex",
            )
        elif draw is not None:
            _button("CSV", lambda: csv(figure_data(draw("light"))), f"{name}.csv", "text/csv", f"{key}-csv")


def _choose_size(key: str) -> str:
    """The width for print: one choice for all charts, as long as the visitor stays."""
    widget = f"print-{key}"

    def kept() -> None:
        st.session_state[_PRINT_SIZE] = st.session_state[widget]

    st.session_state[widget] = st.session_state.get(_PRINT_SIZE, "page")
    chosen: str = st.selectbox(
        "Width",
        list(SIZES),
        key=widget,
        format_func=lambda size: SIZES[size].label,
        on_change=kept,
        label_visibility="collapsed",
        width=190,
    )
    return chosen


def _button(label: str, make: Callable[[], bytes | str], file_name: str, mime: str, key: str) -> None:
    st.download_button(
        label, make, file_name, mime, key=f"save-{key}", on_click="ignore", type="tertiary", icon=":material/download:"
    )


def _drawing(draw: Callable[[str], go.Figure], kind: str, size: str) -> Callable[[], bytes]:
    return lambda: figure_bytes(draw("light"), kind, size)


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
