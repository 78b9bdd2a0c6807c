"""Pieces that every page is made of: heading, error box, empty state, chart, run picker, state in words."""

from __future__ import annotations

import contextlib
import html
import logging
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine import __version__
from engine.errors import DraftbenchError
from engine.untrusted.visible import visible
from workbench.shared import chart_parts, charts, downloads, queries, url_warnings
from workbench.shared.pages import PAGES, page_of

# A state is told by word and icon; colour only helps.
STATES: dict[str, tuple[str, str, str]] = {
    "queued": (":material/schedule:", "gray", "waits for its turn"),
    "running": (":material/progress_activity:", "blue", "is being worked on"),
    "done": (":material/check_circle:", "green", "trained and measured"),
    "failed": (":material/error:", "red", "stopped with an error; what was finished is kept"),
    "cancelled": (":material/stop_circle:", "orange", "was stopped on request; can be resumed"),
    "interrupted": (":material/bolt:", "orange", "its process is gone; can be resumed"),
    "damaged": (":material/broken_image:", "red", "its status file cannot be read"),
}
ICON = Path(__file__).with_name("icon.svg")
WORDMARK = ICON.with_name("wordmark.svg")
_log = logging.getLogger("draftbench")
CAMERA = "camera"  # state of the session: what the charts' own buttons save
RESUMABLE = ("failed", "cancelled", "interrupted")


def heading(name: str) -> None:
    """The page's title and its one-sentence purpose."""
    st.session_state.pop("_unnamed", None)  # of a page that did not come to its end
    entry = PAGES[name]
    st.title(entry.title, anchor=False)
    st.html(f'<p class="purpose">{html.escape(entry.purpose)}</p>')
    url_warnings.begin(name)


def text(value: object) -> str:
    """Text of a user or a model, safe inside Markdown: every character that could mean something is escaped."""
    shown = visible(str(value).replace("\n", " "))
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:@^=&" else c for c in shown)


def error_box(error: DraftbenchError) -> None:
    """What went wrong, why it matters, what to do instead."""
    parts = [f"**{text(error.what)}**"]
    parts += [f"{name}: {text(words)}" for name, words in (("Why", error.why), ("What to do", error.fix)) if words]
    st.error("\n\n".join(parts), icon=":material/error:")


def show_error(error: Exception) -> bool:
    """Show whatever a page or a part of it raised; the application calls it for every uncaught error."""
    if isinstance(error, DraftbenchError):
        error_box(error)
        return True
    _log.error("a page failed", exc_info=error)
    st.error(
        f"**Something in Draftbench itself is broken: {text(type(error).__name__)}**\n\nYour runs are not touched. "
        "Reload the page; if it stays so, please report it with the text below.",
        icon=":material/bug_report:",
    )
    with st.expander("For the report"):
        st.code("".join(traceback.format_exception(error)), language=None)
    return True


def empty(message: str, label: str, page: str, *, key: str = "empty", **params: str) -> None:
    """What would stand here, and one button that leads to it."""
    with st.container(border=True):
        st.write(message)
        if st.button(label, type="primary", key=f"{key}-{page}"):
            st.switch_page(page_of(page), query_params=params or None)


def state_badge(state: str) -> str:
    """A state as Markdown: icon, word and colour."""
    icon, colour, _ = STATES.get(state, (":material/help:", "gray", ""))
    return f":{colour}-badge[{icon} {state}]"


def chart(
    figure: go.Figure, *, key: str, alt: str, name: str = "", save: bool = True, wide: bool = False, **options: Any
) -> Any:
    """A figure with its description for screen readers, its camera, and under it what it can be saved as.

    Without `save` the page itself puts `downloads.download_row` there. A `wide` one keeps its width on a narrow screen
    and is scrolled sideways: its labels would lie over each other.
    """
    kind = st.session_state.get(CAMERA, "SVG").lower()
    config = {
        "displaylogo": False,
        "toImageButtonOptions": {"format": kind, "filename": name or key, "scale": 2 if kind == "png" else 1},
        "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    }
    with st.container(key=f"wide-{key}") if wide else contextlib.nullcontext():
        shown = st.plotly_chart(figure, theme=None, key=key, alt=alt, config=config, **options)
    if save:
        with st.popover("Save", icon=":material/download:", type="tertiary", key=f"save-{key}"):
            downloads.download_row(name or key, key, draw=lambda tone: figure)
    return shown


def distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels by id, with the id added where two are the same: a choice is kept by its label, so it must be its own."""
    counts = Counter(labels.values())
    return {one: label if counts[label] == 1 or label == one else f"{label} ({one})" for one, label in labels.items()}


def pick_runs(
    label: str,
    key: str,
    *,
    measured: bool = True,
    most: int | None = None,
    default: Sequence[str] = (),
    among: Sequence[str] | None = None,
) -> list[str]:
    """Run ids chosen by the visitor and kept in the URL under `key`; archived runs are left out unless named there.

    `among`: the ids to choose from, besides those that the URL names; all if not given.
    """
    known = queries.runs()
    shown = known[(known.state == "done") | ~known.exact.isna()] if measured else known
    named = [run_id for run_id in st.query_params.get_all(key) if run_id in set(shown.run_id)]
    free = shown[~shown.archived & (True if among is None else shown.run_id.isin(among))]
    options = list(free.run_id) + [run_id for run_id in named if run_id not in set(free.run_id)]
    labels = distinct(dict(zip(shown.run_id, shown.label, strict=True)))
    _say_missing(key, options)
    _follow_url(key, options, [r for r in default if r in options])
    st.session_state[key] = st.session_state[key][:most]
    if key not in st.query_params:
        _note(key, st.session_state[key])
    chosen: list[str] = st.multiselect(
        label,
        options,
        format_func=lambda run_id: labels.get(run_id, run_id),
        key=key,
        on_change=_write_url,
        args=(key,),
        max_selections=most,
    )
    return chosen


def _follow_url(key: str, options: Sequence[str], default: list[str]) -> None:
    """Give a picker of ids the value that the URL names. Not by `bind`: that would put the labels into the URL."""
    named = [value for value in st.query_params.get_all(key) if value in options]
    held = [value for value in st.session_state.get(key, default) if value in options]
    st.session_state[key] = list(dict.fromkeys(named)) or held


def _say_missing(key: str, options: Sequence[str]) -> None:
    """Runs that the URL names and that cannot be chosen: somebody shared them, so their absence is told."""
    missing = [value for value in st.query_params.get_all(key) if value not in options]
    if missing:
        url_warnings.handled(key)
        st.warning(
            f"Not shown, because there is no such run here or it is not measured: {text(', '.join(missing))}",
            icon=":material/link_off:",
        )


def _note(key: str, value: str | list[str]) -> None:
    """Remember a shown value that the URL does not name, for `keep_view`."""
    if value:
        st.session_state.setdefault("_unnamed", {})[key] = value


def keep_view() -> None:
    """Write what pickers show by default into the URL, so that it opens this very view elsewhere and later.

    Called once, behind the page: each change of the URL is a step of the browser's history.
    """
    unnamed = st.session_state.pop("_unnamed", None)
    if unnamed:
        st.query_params.update(unnamed)
    url_warnings.end()


def _write_url(key: str) -> None:
    if st.session_state[key]:
        st.query_params[key] = st.session_state[key]
    else:
        st.query_params.pop(key, None)


def choose_one(label: str, options: Sequence[str], labels: Mapping[str, str], key: str) -> str:
    """One id, shown by its label and kept in the URL as the id; the first option if none is named."""
    labels = distinct({one: labels.get(one, one) for one in options})
    named, held = st.query_params.get(key), st.session_state.get(key)
    st.session_state[key] = named if named in options else held if held in options else options[0]
    if named != st.session_state[key]:
        _note(key, st.session_state[key])
    chosen: str = st.selectbox(
        label, options, format_func=labels.__getitem__, key=key, on_change=_write_url, args=(key,)
    )
    return chosen


def axis() -> str:
    """What the URL wants learning curves drawn along: a key of `charts.AXES`."""
    named = st.query_params.get("axis", "steps")
    if named not in charts.AXES:
        url_warnings.not_here("axis", "steps")
    return named if named in charts.AXES else "steps"


def choose_axis() -> str:
    """The axis of learning curves, shown by its words and kept in the URL by its name."""

    def kept() -> None:
        st.query_params["axis"] = st.session_state["_axis"]

    st.session_state["_axis"] = axis()
    chosen: str | None = st.segmented_control(
        "Horizontal axis",
        list(charts.AXES),
        key="_axis",
        format_func=charts.AXES.__getitem__,
        required=True,
        on_change=kept,
    )
    return chosen or axis()


def number(value: float | None, digits: int = 3) -> str:
    """'.412' for a rate, '1.38' for what may exceed one, a dash for what is not known."""
    if value is None or pd.isna(value):
        return "–"
    return f"{value:,.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """'0.412 [0.390, 0.433]'; the value alone where no interval could be made."""
    return f"{number(value, digits)} {chart_parts.bounds(low, high, digits)}".rstrip()


def sidebar() -> None:
    """What is the same on every page: whose results these are, and the version."""
    st.logo(str(WORDMARK), size="large", icon_image=str(ICON))
    with st.sidebar:
        running = queries.active()
        if len(running):
            st.page_link(
                page_of("home"), label=f"{len(running)} at work or waiting", icon=":material/progress_activity:"
            )
        st.segmented_control(
            "Charts' camera saves",
            ["SVG", "PNG"],
            default="SVG",
            required=True,
            key=CAMERA,
            help="What the camera button of a chart makes, in the browser and without the server.",
        )
        st.caption(f"Draftbench {__version__}  \n{text(queries.home().root)}")


def goto(page: str, label: str, *, icon: str | None = None, **params: str | Sequence[str]) -> None:
    """A link to another page, with the view to show there."""
    st.page_link(page_of(page), label=label, icon=icon, query_params=params or None)
