"""Components shared by all pages: heading, error box, empty state, chart, picker of one value, state badge, sidebar."""

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
from engine.numbers import Estimate, has_bounds, too_few, within
from engine.untrusted.visible import visible
from workbench.shared import downloads, learning_curve, queries, url_warnings
from workbench.shared.pages import PAGES, page_of

# Icon, colour and explanation of each state; the word and the icon carry the meaning, colour only helps.
STATES: dict[str, tuple[str, str, str]] = {
    "queued": (":material/schedule:", "gray", "waiting for its turn"),
    "running": (":material/progress_activity:", "blue", "in progress"),
    "done": (":material/check_circle:", "green", "trained and measured"),
    "failed": (":material/error:", "red", "stopped with an error; finished work is kept"),
    "cancelled": (":material/stop_circle:", "orange", "stopped on request; can be resumed"),
    "interrupted": (":material/bolt:", "orange", "its process has ended; can be resumed"),
    "damaged": (":material/broken_image:", "red", "its status file is unreadable"),
}
ICON = Path(__file__).with_name("icon.svg")
WORDMARK = ICON.with_name("wordmark.svg")
_log = logging.getLogger("draftbench")
CAMERA = "camera"  # session state: the format that the charts' camera buttons save
# Buttons of the browser alone (`server/browser.js`): the choice is the visitor's, kept in the browser for every page.
_LOOK = """
<div class="look" role="group" aria-label="Light or dark">
<button type="button" data-look="system">System</button>
<button type="button" data-look="light">Light</button>
<button type="button" data-look="dark">Dark</button>
</div>
<button type="button" class="keys" data-shortcuts="all">Keyboard shortcuts <kbd>?</kbd></button>
"""
RESUMABLE = ("failed", "cancelled", "interrupted")


def heading(name: str) -> None:
    """Draw the page's title and its one-sentence purpose."""
    st.session_state.pop("_unnamed", None)  # left by a page that was interrupted
    entry = PAGES[name]
    tab_title(entry.title)
    st.title(entry.title, anchor=False)
    st.html(f'<p class="purpose">{html.escape(entry.purpose)}</p>')
    url_warnings.begin(name)


def tab_title(*parts: str) -> None:
    """Name the browser's tab, the most particular part first: 'Biology, seed 1 · Run · Draftbench'."""
    shown = [" ".join(visible(part).split()) for part in parts]
    st.set_page_config(page_title=" · ".join([*(part for part in shown if part), "Draftbench"]))


def text(value: object) -> str:
    """Escape text of a user or a model for use inside Markdown."""
    shown = visible(str(value).replace("\n", " "))
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:@^=&" else c for c in shown)


def sentence(value: object) -> str:
    """As `text`, but what stands between backticks is shown as code."""
    parts = visible(str(value).replace("\n", " ")).split("`")
    if len(parts) % 2 == 0:  # a backtick without another
        return text(value)
    return "".join(f"`{part}`" if place % 2 else text(part) for place, part in enumerate(parts) if part)


def error_box(error: DraftbenchError) -> None:
    """Show what went wrong, why it matters and what to do."""
    parts = [f"**{text(error.what)}**"]
    parts += [f"{name}: {sentence(part)}" for name, part in (("Why", error.why), ("What to do", error.fix)) if part]
    st.error("\n\n".join(parts), icon=":material/error:")


def show_error(error: Exception) -> bool:
    """Show an error that a page or fragment raised. The application calls this for every uncaught error."""
    if isinstance(error, DraftbenchError):
        error_box(error)
        return True
    _log.error("a page failed", exc_info=error)
    st.error(
        f"**This is a bug in Draftbench: {text(type(error).__name__)}**\n\nYour runs are not affected. "
        "Reload the page; if the error persists, please report it with the text below.",
        icon=":material/bug_report:",
    )
    with st.expander("Details to report"):
        st.code("".join(traceback.format_exception(error)), language=None)
    return True


def empty(message: str, label: str, page: str, **params: str) -> None:
    """An empty state: what will appear here, and a button that leads to the first step."""
    with st.container(border=True):
        st.write(message)
        if st.button(label, type="primary", key=f"empty-{page}"):
            st.switch_page(page_of(page), query_params=params or None)


def state_badge(state: str) -> str:
    """The state as a Markdown badge: icon, word and colour."""
    icon, colour, _ = STATES.get(state, (":material/help:", "gray", ""))
    return f":{colour}-badge[{icon} {state}]"


def chart(
    figure: go.Figure,
    *,
    key: str,
    alt: str,
    name: str = "",
    save: bool = True,
    wide: bool = False,
    lasso: bool = False,
    **options: Any,
) -> Any:
    """Draw a figure with a description for screen readers, its camera button, and a menu to save it.

    Without `save` the page places `downloads.download_row` itself. A `wide` figure keeps its width on a narrow screen
    and scrolls sideways, because its labels would overlap. `lasso`: its buttons offer to select points.
    """
    kind = st.session_state.get(CAMERA, "SVG").lower()
    config = {
        "displaylogo": False,
        "toImageButtonOptions": {"format": kind, "filename": name or key, "scale": 2 if kind == "png" else 1},
        "modeBarButtonsToRemove": ["autoScale2d", *([] if lasso else ["lasso2d", "select2d"])],
    }
    with st.container(key=f"wide-{key}") if wide else contextlib.nullcontext():
        shown = st.plotly_chart(figure, theme=None, key=key, alt=alt, config=config, **options)
    if save:
        with st.popover("Save", icon=":material/download:", type="tertiary", key=f"save-{key}"):
            downloads.download_row(name or key, key, draw=lambda tone: figure)
    return shown


def selected(event: Any) -> list[str]:
    """Of each point that is selected in a chart the text that it carries (`customdata`); some carry none."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    data = [point.get("customdata") for point in points]
    values = [value[0] if isinstance(value, list) and value else value for value in data]
    return [value for value in values if isinstance(value, str)]


def distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels by id, with the id added where labels are equal: widgets identify an option by its label."""
    counts = Counter(labels.values())
    return {key: label if counts[label] == 1 or label == key else f"{label} ({key})" for key, label in labels.items()}


def note_default(key: str, value: str | list[str]) -> None:
    """Remember a default value that is not in the URL, for `keep_view`."""
    if value:
        st.session_state.setdefault("_unnamed", {})[key] = value


def keep_view() -> None:
    """Write the pickers' default values into the URL, so that a copy of it opens the same view.

    Called once, after the page: each change of the URL is an entry in the browser's history.
    """
    unnamed = st.session_state.pop("_unnamed", None)
    if unnamed:
        st.query_params.update(unnamed)
    url_warnings.end()


def write_address(key: str, forget: Sequence[str] = ()) -> None:
    """Put the value of the widget `key` into the URL under its name; an empty one leaves it.

    `forget`: parameters that leave the URL too, since they say nothing about another value.
    """
    for name in forget:
        st.query_params.pop(name, None)
    if st.session_state[key]:
        st.query_params[key] = st.session_state[key]
    else:
        st.query_params.pop(key, None)


def chosen(options: Sequence[str], key: str, default: str | None = None) -> str:
    """What `choose_one` shows, also before it is drawn: the id in the URL, else the last one, else the default."""
    named, held = st.query_params.get(key), st.session_state.get(key)
    return str(named if named in options else held if held in options else default or options[0])


def choose_one(
    label: str,
    options: Sequence[str],
    labels: Mapping[str, str],
    key: str,
    default: str | None = None,
    *,
    help: str | None = None,
    forget: Sequence[str] = (),
) -> str:
    """Let the visitor choose an id by its label; the URL keeps the id. Without `default` the first option is it.

    `forget`: parameters of the URL that say nothing about another choice.
    """
    labels = distinct({option: labels.get(option, option) for option in options})
    named = st.query_params.get(key)
    st.session_state[key] = chosen(options, key, default)
    if named != st.session_state[key]:
        note_default(key, st.session_state[key])
    picked: str = st.selectbox(
        label, options, format_func=labels.__getitem__, key=key, help=help, on_change=write_address, args=(key, forget)
    )
    return picked


def follow_address(key: str, options: Sequence[str], default: Sequence[str]) -> None:
    """Set a picker of ids to the value in the address. `bind` would put the labels there instead of the ids."""
    named = [value for value in st.query_params.get_all(key) if value in options]
    held = [value for value in st.session_state.get(key, default) if value in options]
    st.session_state[key] = list(dict.fromkeys(named)) or held


def choose_some(
    label: str, options: Sequence[str], labels: Mapping[str, str], key: str, default: Sequence[str]
) -> list[str]:
    """Let the visitor choose several ids by their labels; the URL names them only once they were chosen."""
    labels = distinct({option: labels.get(option, option) for option in options})
    usual, chosen_key = [option for option in default if option in options], f"_chosen_{key}"
    follow_address(key, options, usual)
    if usual and key not in st.query_params and not st.session_state.get(chosen_key):
        st.session_state[key] = usual  # of the runs that are shown now

    def taken() -> None:
        st.session_state[chosen_key] = True
        write_address(key)

    picked: list[str] = st.multiselect(label, options, format_func=labels.__getitem__, key=key, on_change=taken)
    return picked


def axis() -> str:
    """The horizontal axis of learning curves according to the URL: a key of `learning_curve.AXES`."""
    named = st.query_params.get("axis", "steps")
    if named not in learning_curve.AXES:
        url_warnings.not_here("axis", "steps")
    return named if named in learning_curve.AXES else "steps"


def choose_axis() -> str:
    """Let the visitor choose the horizontal axis of learning curves; the URL keeps its key."""

    def kept() -> None:
        st.query_params["axis"] = st.session_state["_axis"]

    st.session_state["_axis"] = axis()
    picked: str | None = st.segmented_control(
        "Horizontal axis",
        list(learning_curve.AXES),
        key="_axis",
        format_func=learning_curve.AXES.__getitem__,
        required=True,
        on_change=kept,
    )
    return picked or axis()


def number(value: float | None, digits: int = 3) -> str:
    """'0.412', or a dash for a missing value."""
    if value is None or pd.isna(value):
        return "–"
    return f"{value:,.{digits}f}"


def interval_line(estimate: Estimate, digits: int = 3) -> str:
    """'95% interval [0.390, 0.433], n = 36 prompts', or that there is none: the line under a figure."""
    n = getattr(estimate, "n_prompts", None)
    counted = f"n = {number(n, 0)} prompts"
    if too_few(n):
        return f"{counted}: too few for an interval"
    return f"95% interval {within(estimate, digits)}, {counted}" if has_bounds(estimate) else f"no interval, {counted}"


def sidebar() -> None:
    """Draw the sidebar: logo, link to unfinished runs, chart format, light or dark, version and home folder."""
    st.logo(str(WORDMARK), size="large", icon_image=str(ICON))
    with st.sidebar:
        running = queries.active()
        if len(running):
            st.page_link(
                page_of("home"), label=f"{len(running)} running or queued", icon=":material/progress_activity:"
            )
        st.segmented_control(
            "Image format of charts",
            ["SVG", "PNG"],
            default="SVG",
            required=True,
            key=CAMERA,
            help="The format that a chart's camera button saves, in the browser and without the server.",
        )
        st.html(_LOOK)
        st.caption(f"Draftbench {__version__}  \n{text(queries.home().root)}")


def goto(page: str, label: str, *, icon: str | None = None, **params: str | Sequence[str]) -> None:
    """Draw a link to another page, with the parameters of the view to open there."""
    st.page_link(page_of(page), label=label, icon=icon, query_params=params or None)
