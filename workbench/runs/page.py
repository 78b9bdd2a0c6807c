"""The Runs page: all runs in one table, to search, group, label, and open on other pages."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.explore.figures import title_of
from engine.index.expressions import EXAMPLE, matching_runs
from workbench.runs import refresh, removed, rows, selection, view_bar
from workbench.runs import table as runs_table
from workbench.runs.columns import COLUMNS
from workbench.shared import actions, downloads, queries, ui, url_warnings
from workbench.shared.method_names import SUPERVISION, mode_word
from workbench.shared.pages import page_of

_NO_SETTINGS = {
    *COLUMNS,
    "run_id",
    "label",
    "updated_at",
    "folder",
    "name",
}  # columns of the table already, or no figure

_LABELS = {
    "loss": "Loss",
    "state": "State",
    "domain": "Domain",
    "scenario": "Scenario",
    "mode": "Mode",
    "supervision": "Supervision",
    "target": "Target",
}


def filters(known: pd.DataFrame) -> runs_table.Filters:
    """Draw the filters, which the URL keeps, and return them."""
    search, order, group, archived = st.columns([4, 2, 2, 2])
    search.text_input(
        "Search", key="q", bind="query-params", type="search", placeholder="words in the id, title, tags or note"
    )
    order.selectbox(
        "Order", list(runs_table.ORDERS), key="order", bind="query-params", help="Pinned runs are listed first."
    )
    settings = [name for name in queries.wide().columns if name not in _NO_SETTINGS]
    by = [runs_table.NO_GROUP, *runs_table.GROUPS, *(name for name in settings if name not in runs_table.GROUPS)]
    if st.query_params.get("group") == runs_table.ONCE_NO_GROUP:
        del st.query_params["group"]
        url_warnings.handled("group")
    if st.session_state.get("group") == runs_table.ONCE_NO_GROUP:
        st.session_state["group"] = runs_table.NO_GROUP
    if st.session_state.get("group", by[0]) not in by:  # of a saved view
        st.caption(f":material/link_off: No run has {ui.text(st.session_state['group'])} to group by.")
        st.session_state["group"] = by[0]
    with group:
        ui.choose_one(
            "Group by",
            by,
            {name: title_of(name) for name in by} | {runs_table.NO_GROUP: "nothing"},
            "group",
            help="Groups fold and show their mean. All settings but the seed: the runs of a group are the seeds of one "
            "recipe, and the mean has a standard error.",
        )
    archived.selectbox("Archived", runs_table.ARCHIVED, key="archived", bind="query-params")
    condition, more = st.columns([6, 4])
    condition.text_input(
        "Condition",
        key="where",
        bind="query-params",
        placeholder=f"{EXAMPLE}, train.learning_rate >= 1e-3, argmax_1 > exact_1",
        help="Any setting of a recipe by its dotted name, any column of the table, and any rate with its temperature "
        "(`tau_0`, `argmax_1`), compared as in SQL. A column's help shows its name.",
    )
    with more:
        keep_known("columns", settings)
        ui.choose_some("More columns", settings, {name: title_of(name) for name in settings}, "columns", ())
    narrowed = any(st.query_params.get_all(name) for name in (*runs_table.CHOOSABLE, "tag"))
    values = {}
    with st.expander("More filters", icon=":material/filter_list:", expanded=narrowed):
        places = st.columns(4)
        for index, column in enumerate((*runs_table.CHOOSABLE, "tags")):
            key = "tag" if column == "tags" else column
            options = runs_table.choices(known, column)
            keep_known(key, options)
            values[column] = tuple(
                places[index % 4].multiselect(
                    _LABELS.get(column, "Tag"),
                    options,
                    key=key,
                    bind="query-params",
                    placeholder="all",
                    format_func=filter_label,
                )
            )
    tags = values.pop("tags")
    state = st.session_state
    return runs_table.Filters(state["q"] or "", tuple(values.items()), tags, state["archived"], state["where"] or "")


def keep_known(key: str, options: Sequence[str]) -> None:
    """Take out of a list what no run has, as after removing one: a saved view may still name it. Says so."""
    held = st.session_state.get(key) or []
    gone = [value for value in held if value not in options]
    if gone:
        st.session_state[key] = [value for value in held if value in options]
        st.caption(f":material/link_off: No run has {ui.text(', '.join(map(str, gone)))}.")


def fulfilling(shown: pd.DataFrame, condition: str) -> pd.DataFrame | None:
    """The rows for which the condition is true; None, with an error on the page, if it cannot be evaluated.

    All rows would stand there as if they fulfilled it, to be selected and removed.
    """
    if not condition.strip():
        return shown
    try:
        kept = matching_runs(queries.wide(), condition)
    except DraftbenchError as error:
        ui.error_box(error)
        return None
    return shown[shown.run_id.isin(kept)]


def filter_label(value: str) -> str:
    """The display name of a mode or supervision; other values are returned as they are."""
    return SUPERVISION.get(value, mode_word(value))


def clear() -> None:
    """Remove all filters, also from the URL."""
    st.session_state["q"] = st.session_state["where"] = ""
    for name in (*runs_table.CHOOSABLE, "tag"):
        st.session_state[name] = []
    st.session_state["archived"] = "shown" if st.session_state["archived"] == "shown" else "hidden"


def render() -> None:
    """Draw the page."""
    if (run_id := rows.asked_to_open()) is not None:
        st.switch_page(page_of("run"), query_params={"run": run_id})
    ui.heading("runs")
    refresh.look()
    known = runs_table.prepared(runs_table.with_unindexed(queries.runs(), queries.home()))
    actions.outcome()
    refresh.watching(known)
    if known.empty:
        ui.empty(
            "No runs yet. A run trains one draft and measures it; the quick recipe takes a few minutes.",
            "Start a run",
            "launch",
        )
        removed.removed()
        return
    views = view_bar.opened()
    view_place = st.container()
    wanted = filters(known)
    with view_place:
        view_bar.choose(views)
    shown = fulfilling(runs_table.matching(known, wanted), wanted.condition)
    if shown is None:
        st.caption("No run is shown until the condition is fixed.")
        st.button("Clear filters", key="clear", on_click=clear, icon=":material/filter_list_off:")
    elif shown.empty:
        hidden = int(known.archived.sum()) if wanted.archived == "hidden" else 0
        archived = f", {hidden} of them archived" if hidden else ""
        st.info(f"No run matches these filters; there are {len(known)} runs{archived}.")
        st.button("Clear filters", key="clear", on_click=clear, icon=":material/filter_list_off:")
    else:
        runs(shown, known)
    removed.removed()


def runs(shown: pd.DataFrame, known: pd.DataFrame) -> None:
    """Draw the bar of actions, the rows, and buttons to save them as a file."""
    group = st.session_state["group"]
    grouped = group if group != runs_table.NO_GROUP else None
    if grouped:
        shown = with_group(shown, grouped)
    shown = runs_table.ordered(shown, st.session_state["order"], grouped)
    more = st.session_state["columns"] or []
    place = selection.place()
    summary = runs_table.group_summary(shown, grouped, queries.recipes()) if grouped else None
    if grouped and summary is not None:
        selected = rows.in_groups(shown, grouped, more, summary)
    else:
        selected = rows.in_pages(shown, more)
    st.session_state["_selected"] = selected
    with place:
        if selected:
            selection.bar(shown[shown.run_id.isin(selected)], runs_table.choices(known, "tags"))
        else:
            selection.hint()
    st.caption(f"{len(shown)} of {len(known)} runs, {int(shown.exact.notna().sum())} measured.")
    if summary is not None:
        st.caption("Saved are the rows of the groups; group by nothing to save the runs.")
        caption = f"Exact acceptance by {grouped}"
        paper = runs_table.groups_for_paper(summary)
        downloads.download_row("groups-of-runs", "groups", frame=summary, paper=paper, caption=caption)
        return
    downloads.download_row(
        "runs",
        "runs",
        frame=with_more(runs_table.for_csv(shown), shown, more),
        paper=runs_table.for_paper(shown),
        caption="Exact acceptance per run, with 95% interval over prompts",
    )


def with_more(cells: pd.DataFrame, shown: pd.DataFrame, more: Sequence[str]) -> pd.DataFrame:
    """The cells with the chosen settings and rates beside them."""
    return runs_table.with_columns(cells, shown, queries.wide(), more) if more else cells


def with_group(shown: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows with a column for the group where it is a setting, or all settings but the seed."""
    if group == runs_table.ALL_BUT_SEED:
        return shown.assign(**{group: queries.recipes().reindex(shown.run_id).fillna(runs_table.UNKNOWN).to_numpy()})
    if group in shown or group == "tag":
        return shown
    values = queries.wide().set_index("run_id")[group].reindex(shown.run_id)
    return shown.assign(**{group: [runs_table.UNKNOWN if pd.isna(one) else str(one) for one in values]})
