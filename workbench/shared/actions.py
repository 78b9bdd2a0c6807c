"""Buttons that change something: each click acts once, and the page shows its outcome when it is drawn next.

A page is a script that runs again for every click. A second click while the page is being redrawn would act
again, so the buttons of one drawing are good for one action. Use them outside fragments only: a fragment
redraws its own buttons and no others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from engine.errors import DraftbenchError
from workbench.shared import queries, ui

_TURN, _MESSAGE, _ERROR, _LAST, _PLACE = "_turn", "_message", "_error", "_last_click", "_message_place"
_DOUBLE_CLICK_S = 1.0
Action = Callable[[], str | None]


def button(label: str, action: Action, *, key: str, place: str = "", **options: Any) -> None:
    """A button that runs `action`; `outcome` of the same place shows the message it returns."""
    st.button(label, key=key, on_click=_act, args=(action, key, _turn(), place), **options)


def submit(label: str, action: Action, *, key: str, place: str = "", **options: Any) -> None:
    """The same as the submit button of a form; `action` reads the fields from the session state."""
    st.form_submit_button(label, key=key, on_click=_act, args=(action, key, _turn(), place), **options)


def outcome(place: str = "") -> None:
    """Show the outcome of the last action, once, if its button is of this place: '' is the page's top."""
    if st.session_state.get(_PLACE, "") != place:
        return
    message, error = st.session_state.pop(_MESSAGE, None), st.session_state.pop(_ERROR, None)
    if error is not None:
        ui.error_box(error)
    elif message:
        st.success(ui.text(message), icon=":material/check:")


def _turn() -> int:
    return int(st.session_state.get(_TURN, 0))


def _act(action: Action, key: str, turn: int, place: str = "") -> None:
    last_key, last_time = st.session_state.get(_LAST, ("", -_DOUBLE_CLICK_S))
    doubled = key == last_key and time.monotonic() - last_time < _DOUBLE_CLICK_S
    if turn != _turn() or doubled:
        return
    st.session_state[_TURN], st.session_state[_PLACE] = turn + 1, place
    for left in (_MESSAGE, _ERROR):  # of a place that was not drawn again
        st.session_state.pop(left, None)
    try:
        st.session_state[_MESSAGE] = action()
    except DraftbenchError as error:
        st.session_state[_ERROR] = error
    queries.refresh()
    st.session_state[_LAST] = (key, time.monotonic())  # after the action: a slow one may be clicked again meanwhile
