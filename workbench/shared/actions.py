"""Buttons that change something: each click acts once, and its outcome is told on the next drawing of the page.

A page is a script that is run again for every click. A second click that comes while the first
one's drawing is under way would act again, so each drawing's buttons are good for one action.
Use them outside fragments only: a fragment redraws its own buttons and no others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from engine.errors import DraftbenchError
from workbench.shared import queries, ui

_TURN, _TOLD, _FAULT, _LAST = "_turn", "_told", "_fault", "_last_click"
_DOUBLE_CLICK_S = 1.0
Action = Callable[[], str | None]


def button(label: str, action: Action, *, key: str, **options: Any) -> None:
    """A button that runs `action`; the sentence it returns is told by `outcome`."""
    st.button(label, key=key, on_click=_act, args=(action, key, _turn()), **options)


def submit(label: str, action: Action, *, key: str, **options: Any) -> None:
    """The same as the button of a form; `action` reads the fields from the session's state."""
    st.form_submit_button(label, key=key, on_click=_act, args=(action, key, _turn()), **options)


def outcome() -> None:
    """What the last action came to, once."""
    told, fault = st.session_state.pop(_TOLD, None), st.session_state.pop(_FAULT, None)
    if fault is not None:
        ui.error_box(fault)
    elif told:
        st.success(ui.text(told), icon=":material/check:")


def _turn() -> int:
    return int(st.session_state.get(_TURN, 0))


def _act(action: Action, key: str, turn: int) -> None:
    last_key, last_time = st.session_state.get(_LAST, ("", -_DOUBLE_CLICK_S))
    doubled = key == last_key and time.monotonic() - last_time < _DOUBLE_CLICK_S
    if turn != _turn() or doubled:
        return
    st.session_state[_TURN] = turn + 1
    try:
        st.session_state[_TOLD] = action()
    except DraftbenchError as error:
        st.session_state[_FAULT] = error
    queries.refresh()
    st.session_state[_LAST] = (key, time.monotonic())  # from the end: what took long may have been clicked meanwhile
