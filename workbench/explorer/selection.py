"""Runs that were selected in the scatter: kept in the address, listed, and handed on to Compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from engine.explore.figures import Figure
from workbench.compare.comparison import MOST_DRAFTS
from workbench.explorer.runs import Shown, runs_in_words
from workbench.shared import ui, url_warnings

KEY = "picked"  # of the address
CHART = "explorer-scatter"
MOST_IN_ADDRESS = 40  # servers and browsers cut long addresses


def picked(shown: Shown) -> list[str]:
    """The selected ids among the runs that are shown; a selection too long for the address is kept in the session."""
    named = st.query_params.get_all(KEY) or st.session_state.get("_picked", [])
    missing = [run_id for run_id in named if run_id not in shown.labels]
    if missing:
        url_warnings.handled(KEY)
        st.caption(f"{len(missing)} of the {len(named)} selected runs are not among those shown.")
    return [run_id for run_id in named if run_id in shown.labels]


def take() -> None:
    """Keep what has just been selected in the chart."""
    run_ids = selected_ids(st.session_state.get(CHART))
    st.session_state["_picked"] = run_ids
    if 0 < len(run_ids) <= MOST_IN_ADDRESS:
        st.query_params[KEY] = run_ids
    else:
        st.query_params.pop(KEY, None)


def selected_ids(event: Any) -> list[str]:
    """The run ids of the points of a selection, each once; points of the Pareto line have none."""
    return list(dict.fromkeys(ui.selected(event)))


def clear() -> None:
    """Forget the selection."""
    st.session_state["_picked"] = []
    st.query_params.pop(KEY, None)


def section(shown: Shown, run_ids: list[str], figures: list[Figure]) -> None:
    """The selected runs, and links that take them along."""
    if not run_ids:
        st.caption("Drag a lasso or a box around points, or click one (Shift adds), to take the runs to Compare.")
        return
    rows = shown.table[shown.table.run_id.isin(run_ids)]
    best = best_first(rows, figures[1])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{runs_in_words(len(run_ids))} selected**", width="content")
        link_to_compare(best, figures[1])
        if len(run_ids) == 1:
            ui.goto("run", "Open", icon=":material/monitoring:", run=run_ids[0])
        st.button("Clear the selection", on_click=clear, type="tertiary", icon=":material/close:")
    if len(run_ids) > MOST_IN_ADDRESS:
        st.caption(f"A selection of more than {MOST_IN_ADDRESS} runs is not kept in the address.")
    listing(best, figures, shown.labels, "picked-runs")


def best_first(rows: pd.DataFrame, figure: Figure) -> pd.DataFrame:
    """The rows by a figure, its better end first; as they are where no direction is better."""
    if figure.better is None:
        return rows
    return rows.sort_values(figure.name, ascending=figure.better == "lower", na_position="last", kind="stable")


def link_to_compare(rows: pd.DataFrame, figure: Figure) -> None:
    """A link to Compare with the runs, the first of them if there are too many."""
    ids = list(rows.run_id[:MOST_DRAFTS])
    which = f"the {len(ids)} best by {figure.title}" if figure.better else f"the {len(ids)} newest"
    label = f"Compare {which}" if len(rows) > MOST_DRAFTS else "Compare them"
    if len(ids) > 1:
        ui.goto("compare", ui.text(label), icon=":material/compare_arrows:", runs=ids)


def listing(rows: pd.DataFrame, figures: list[Figure], labels: Mapping[str, str], key: str) -> None:
    """A table of runs with some figures, each with a link to its page."""
    columns = {figure.name: figure.title for figure in figures}
    table = pd.DataFrame({"run": [labels[run_id] for run_id in rows.run_id]})
    for name, title in columns.items():
        table[title] = rows[name].to_numpy()
    table["open"] = [f"/run?run={run_id}" for run_id in rows.run_id]
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        height=min(38 + 35 * len(table), 320),
        column_config={
            "run": st.column_config.TextColumn("Run", width=320),
            "open": st.column_config.LinkColumn("Open", display_text="open"),
        },
        placeholder="–",
        alt=f"{len(table)} runs with {', '.join(columns.values())}",
    )
