"""What an address asks for and its page cannot show: said at the top of the page, never passed over.

Somebody shared the address, or typed it. A name that the page does not know, or a value that is not among the choices,
would otherwise show another view without a word: Streamlit's bound widgets drop such a value from the address.

`begin` is called by the page's heading, `end` behind the page. Between them `not_here` notes a value that the page itself
found wanting; values of widgets are compared with the address in `end`, once for each address.
"""

from __future__ import annotations

import difflib
from typing import Any

import streamlit as st

from workbench.shared.pages import PAGES

_ASKED, _PLACE, _SEEN, _NOTED, _PAGE = "_asked", "_asked_place", "_asked_seen", "_asked_noted", "_asked_page"
_LONGEST = 80  # characters of a value that are repeated


def begin(page: str) -> None:
    """Remember the address before widgets correct it, and keep a place for what is to be said."""
    state = st.session_state
    state[_PAGE], state[_NOTED] = page, {}
    state[_ASKED] = {key: st.query_params.get_all(key) for key in st.query_params if not key.startswith("_")}
    state[_PLACE] = st.container()


def not_here(key: str, shown: str) -> None:
    """What the address asks for under `key` cannot be shown; `shown` says what is there instead."""
    st.session_state.setdefault(_NOTED, {})[key] = shown


def handled(key: str) -> None:
    """The page says itself what is wrong with the value of `key`."""
    st.session_state.get(_ASKED, {}).pop(key, None)


def end() -> None:
    """Say what the address asked for in vain."""
    from workbench.shared import ui

    state = st.session_state
    page, asked, place = (state.pop(name, None) for name in (_PAGE, _ASKED, _PLACE))
    noted = state.pop(_NOTED, {})
    if page is None:
        return
    new = state.get(_SEEN) != (page, asked)  # a click's own changes agree with the widgets by themselves
    lines = [_unknown(page, key) for key in asked if not _known(page, key)]
    for key, values in asked.items() if new else ():
        if key not in noted and key in state and _known(page, key) and not same(state[key], values):
            noted[key] = ", ".join(_texts(state[key])) or "nothing"
    lines += [
        f"{ui.text(key)} \\= {ui.text(_short(asked[key]))} is not here; shown: {ui.text(shown)}"
        for key, shown in noted.items()
        if key in asked
    ]
    if lines:
        place.warning(
            "**The address asks for what this page cannot show.**\n\n" + "\n\n".join(lines), icon=":material/link_off:"
        )
    state[_SEEN] = (page, {key: st.query_params.get_all(key) for key in st.query_params if not key.startswith("_")})


def same(shown: Any, asked: list[str]) -> bool:
    """Whether a widget's value is what the address says: '0.70' is 0.7, 'True' is true, an order does not count."""
    return sorted(map(_plain, _texts(shown))) == sorted(set(map(_plain, asked)))


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, (list, tuple, set)) else [str(value)]


def _plain(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.casefold() if text.casefold() in ("true", "false") else text


def _known(page: str, key: str) -> bool:
    return any(key == name or (name.endswith("*") and key.startswith(name[:-1])) for name in PAGES[page].params)


def _unknown(page: str, key: str) -> str:
    from workbench.shared import ui

    near = difflib.get_close_matches(key, PAGES[page].params, n=1, cutoff=0.5)
    hint = f"; did you mean {ui.text(near[0])}?" if near else ""
    return f"This page has no setting {ui.text(_short([key]))}{hint}"


def _short(values: list[str]) -> str:
    text = ", ".join(values)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
