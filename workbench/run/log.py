"""The Log section of a run's page: the end of its log files, with a search."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from engine.runs.folder import RunFolder

LOGS = {"log.txt": "the steps of the run", "output.txt": "everything that its process printed"}
_SEARCHED_BYTES = 1_000_000
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def log(run: RunFolder) -> None:
    """Draw the end of the run's log, or of its process's output, with a search."""
    which, search, lines, wrap = st.columns([2, 4, 2, 1.4], vertical_alignment="bottom")
    name = which.selectbox(
        "Log",
        list(LOGS),
        key="log",
        bind="query-params",
        help="log.txt: the steps of the run. output.txt: everything that its process printed, also warnings.",
    )
    needle = search.text_input(
        "Search in the log", key="find", bind="query-params", type="search", placeholder="lines that contain …"
    )
    most = int(lines.selectbox("Last lines", [200, 1000, 5000], key="lines", bind="query-params"))
    wrapped = wrap.toggle("Wrap", value=True, key="wrap", bind="query-params")
    if not (run.path / name).is_file():
        st.info(f"There is no {name} yet. It will hold {LOGS[name]}.", icon=":material/subject:")
        return
    part = log_part(run.path / name, most, needle or "")
    with st.container(height=440, autoscroll=True, border=False):  # scrolled to its end
        st.code(part.text or ("(no matching line)" if needle else "(empty)"), language=None, wrap_lines=wrapped)
    summary = f"{part.shown:,} of {part.matching:,} {'matching ' if needle else ''}lines"
    st.caption(summary + ("; only the end of this long file was searched." if part.cut else "."))


@dataclass(frozen=True)
class LogPart:
    """The end of a log."""

    text: str
    shown: int  # lines in `text`
    matching: int  # lines that contain the search text
    cut: bool  # whether the beginning of the file was left out


def log_part(path: Path, lines: int, search: str = "") -> LogPart:
    """The last `lines` lines that contain the search text, ignoring case, without control characters."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(0, size - _SEARCHED_BYTES))
            raw = file.read()
    except OSError:
        return LogPart("", 0, 0, False)
    cut = size > _SEARCHED_BYTES
    if cut:
        raw = raw[raw.find(b"\n") + 1 :]
    every = [clean_line(line) for line in raw.decode("utf-8", "replace").removesuffix("\n").split("\n")] if raw else []
    matching = [line for line in every if search.casefold() in line.casefold()]
    return LogPart("\n".join(matching[-lines:]), min(lines, len(matching)), len(matching), cut)


def clean_line(line: str) -> str:
    """The line as a terminal would show it: the last state of a progress bar, without control characters."""
    states = [part for part in _ANSI.sub("", line).split("\r") if part.strip()]
    last = states[-1] if states else ""
    return "".join(c for c in last if c == "\t" or unicodedata.category(c) not in ("Cc", "Cf"))
