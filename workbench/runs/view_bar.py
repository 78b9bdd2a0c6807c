"""The saved views above the filters: one is chosen from the list, and kept, renamed or deleted beside it."""

from __future__ import annotations

import streamlit as st

from engine.errors import DraftbenchError
from workbench.runs import views
from workbench.runs.table import ARCHIVED, CHOOSABLE, NO_GROUP, ORDERS
from workbench.runs.views import Params, ViewConflictError
from workbench.shared import actions, queries, ui

NONE = "no saved view"
_TEXTS = {"q": "", "where": "", "order": next(iter(ORDERS)), "group": NO_GROUP, "archived": ARCHIVED[0]}
_LISTS = ("columns", *CHOOSABLE, "tag")
_OPEN, _SEEN, _NAME = "_view_open", "_view_seen", "_view_name"


def opened() -> dict[str, Params]:
    """The saved views; before the filters are drawn, one that the address names sets them, unless it says more."""
    try:
        known = views.saved_views(queries.home())
    except DraftbenchError as error:
        ui.error_box(error)
        return {}
    named = st.query_params.get("saved")
    if named in known and st.session_state.get(_OPEN) != named:
        if not any(key in st.query_params for key in (*_TEXTS, *_LISTS)):
            _fill(known[named])
        _remember(named, known[named])
    return known


def choose(known: dict[str, Params]) -> None:
    """Draw the list of views and what can be done with the one that is open."""
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        st.selectbox("Saved view", [NONE, *known], key="saved", bind="query-params", on_change=_picked, args=(known,))
    name, present = st.session_state["saved"], current()
    seen: Params | None = st.session_state.get(_SEEN) if name in known else None
    with right, st.popover("Save or change", icon=":material/bookmark:", key="view-menu"):
        if seen is not None:
            _of_the_open_one(name, present, seen)
        st.text_input("Name of a new view", key=_NAME, placeholder="best per domain", max_chars=80)
        actions.button("Save as a new view", lambda: _save_new(present), key="view-new", icon=":material/bookmark_add:")
        st.caption("Condition, columns, order, group and filters, for all who use this home.")
    if seen is not None and present != seen:
        st.caption(f"The view {ui.text(name)} as changed here; it was saved as {ui.text(views.described(seen))}.")


def current() -> Params:
    """What the filters say now, as a view."""
    state = st.session_state
    texts = {key: (state[key],) for key, default in _TEXTS.items() if state.get(key) not in (None, default)}
    return texts | {key: tuple(state[key]) for key in _LISTS if state.get(key)}


def _of_the_open_one(name: str, present: Params, seen: Params) -> None:
    if present != seen:
        actions.button(
            f"Save the changes to {ui.text(name)}",
            lambda: _saved(name, present, seen),
            key="view-save",
            icon=":material/save:",
        )
    st.text_input("Other name", name, key=f"view-rename-{name}", max_chars=80)
    with st.container(horizontal=True):
        wanted = st.session_state[f"view-rename-{name}"]
        actions.button("Rename", lambda: _renamed(name, wanted, seen), key="view-rename", icon=":material/edit:")
        actions.button("Delete the view", lambda: _deleted(name, seen), key="view-delete", icon=":material/delete:")


def _save_new(params: Params) -> str:
    name = " ".join((st.session_state.get(_NAME) or "").split())
    if name in views.saved_views(queries.home()):
        raise DraftbenchError(
            f"there is a view {name!r} already", "it would be replaced", "open it to change it, or use another name"
        )
    name = views.save_view(queries.home(), name, params, None)
    st.session_state[_NAME] = ""
    _show(name, params)
    return f"Saved the view {name}."


def _saved(name: str, params: Params, seen: Params) -> str:
    try:
        views.save_view(queries.home(), name, params, seen)
    except ViewConflictError as conflict:
        st.session_state[_SEEN] = conflict.present  # saving once more is meant
        raise
    _remember(name, params)
    return f"Saved the view {name}."


def _renamed(name: str, wanted: str, seen: Params) -> str:
    wanted = views.rename_view(queries.home(), name, wanted, seen)
    _show(wanted, seen)
    return f"The view {name} is now {wanted}."


def _deleted(name: str, seen: Params) -> str:
    try:
        views.delete_view(queries.home(), name, seen)
    except ViewConflictError as conflict:
        st.session_state[_SEEN] = conflict.present
        raise
    st.session_state["saved"] = NONE
    return f"Deleted the view {name}; the runs are as they were."


def _picked(known: dict[str, Params]) -> None:
    name = st.session_state["saved"]
    if name in known:
        _fill(known[name])
        _remember(name, known[name])


def _show(name: str, params: Params) -> None:
    st.session_state["saved"] = name
    _remember(name, params)


def _remember(name: str, params: Params) -> None:
    st.session_state[_OPEN], st.session_state[_SEEN] = name, params


def _fill(params: Params) -> None:
    choices = {"order": ORDERS, "archived": ARCHIVED}  # the file may be of another version
    for key, default in _TEXTS.items():
        value = params[key][0] if params.get(key) else default
        st.session_state[key] = value if value in choices.get(key, (value,)) else default
    for key in _LISTS:
        st.session_state[key] = list(params.get(key, ()))
    for key in ("columns", "group"):  # chosen by titles, so that the address is written by hand
        if params.get(key):
            st.query_params[key] = list(params[key])
        else:
            st.query_params.pop(key, None)
