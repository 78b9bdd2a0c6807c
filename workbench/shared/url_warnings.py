"""Warnings at the top of a page about URL parameters that it cannot show.

Without them an unknown parameter or value would silently open another view: Streamlit's bound widgets drop such a
value from the URL.

They take three lines at most: what is wrong, the unknown names, the values that are not there.

`begin` is called by the page's heading, `end` after the page. Between them `not_here` notes a value that the page
cannot show; `end` compares the values of widgets with the URL, once per URL.
"""

from __future__ import annotations

import difflib
from typing import Any

import streamlit as st

from workbench.shared.pages import PAGES

_PAGE, _REQUESTED, _PLACE = "_url_page", "_url_requested", "_url_place"
_NOTED, _SEEN = "_url_noted", "_url_seen"
_LONGEST = 80  # characters of a value that are quoted
_MOST = 3  # names or values of each kind


def begin(page: str) -> None:
    """Remember the URL before widgets correct it, and reserve a place for warnings."""
    state = st.session_state
    state[_PAGE], state[_NOTED] = page, {}
    state[_REQUESTED] = {key: st.query_params.get_all(key) for key in st.query_params if not key.startswith("_")}
    state[_PLACE] = st.container()


def not_here(key: str, shown: str) -> None:
    """Note that the URL's value of `key` cannot be shown; `shown` is shown instead."""
    st.session_state.setdefault(_NOTED, {})[key] = shown


def handled(key: str) -> None:
    """Leave out `key`, because the page itself reports its value."""
    st.session_state.get(_REQUESTED, {}).pop(key, None)


def end() -> None:
    """Show the warnings."""
    from workbench.shared import ui

    state = st.session_state
    page, requested, place = (state.pop(name, None) for name in (_PAGE, _REQUESTED, _PLACE))
    noted = state.pop(_NOTED, {})
    if page is None:
        return
    new = state.get(_SEEN) != (page, requested)  # changes made by a click always agree with the widgets
    unknown = [_unknown(page, key) for key in requested if not _known(page, key)]
    for key, values in requested.items() if new else ():
        if key not in noted and key in state and _known(page, key) and not same(state[key], values):
            noted[key] = ", ".join(_texts(state[key])) or "nothing"
    values = [
        f"{ui.text(key)} \\= {ui.text(_short(requested[key]))} does not exist here; showing {ui.text(shown)}"
        for key, shown in noted.items()
        if key in requested
    ]
    lines = [_one_line(sentences) for sentences in (unknown, values) if sentences]
    if lines:
        place.warning(
            "**This page cannot show everything that the URL asks for.**\n\n" + "\n\n".join(lines),
            icon=":material/link_off:",
        )
    state[_SEEN] = (page, {key: st.query_params.get_all(key) for key in st.query_params if not key.startswith("_")})


def same(shown: Any, requested: list[str]) -> bool:
    """Whether a widget's value equals the URL's: '0.70' is 0.7, 'True' is true, and order does not count."""
    return sorted(map(_plain, _texts(shown))) == sorted(set(map(_plain, requested)))


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, (list, tuple, set)) else [str(value)]


def _plain(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.casefold() if text.casefold() in ("true", "false") else text


def _known(page: str, key: str) -> bool:
    return any(key == name or (name.endswith("*") and key.startswith(name[:-1])) for name in PAGES[page].params)


def _one_line(sentences: list[str]) -> str:
    """The first sentences and the number of the others: a link may name hundreds, and the page stands below."""
    more = len(sentences) - _MOST
    return " · ".join(sentences[:_MOST]) + (f" · and {more} more" if more > 0 else "")


def _unknown(page: str, key: str) -> str:
    from workbench.shared import ui

    near = difflib.get_close_matches(key, PAGES[page].params, n=1, cutoff=0.5)
    hint = f"; did you mean {ui.text(near[0])}?" if near else ""
    return f"This page has no parameter {ui.text(_short([key]))}{hint}"


def _short(values: list[str]) -> str:
    text = ", ".join(values)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
