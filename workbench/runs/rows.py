"""The rows of runs on the page: the table, its pages, and groups that fold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from engine.explore.figures import title_of
from workbench.runs import table as runs_table
from workbench.runs.columns import COLUMNS, GROUP_COLUMNS
from workbench.shared import queries, ui, url_warnings

PAGE_ROWS = 500  # of a table: more would make every click wait for them to travel to the browser
_MOST_GROUPS = 60  # drawn as foldable parts; the summary above them has all
_OPEN = "_open_run"


def asked_to_open() -> str | None:
    """The run whose button in the table was pressed; once."""
    run_id: str | None = st.session_state.pop(_OPEN, None)
    return run_id


def in_pages(shown: pd.DataFrame, more: Sequence[str]) -> list[str]:
    """Draw the runs, a page of them at a time, and return the ids of the selected rows."""
    pages = max(1, math.ceil(len(shown) / PAGE_ROWS))
    if pages == 1:
        return table(shown, more, "all")
    if st.session_state.get("page", 1) > pages:
        st.session_state["page"] = pages
    place = st.container()
    number = st.pagination(pages, key="page", bind="query-params")
    with place:
        selected = table(shown.iloc[(number - 1) * PAGE_ROWS : number * PAGE_ROWS], more, "all")
    st.caption(f"{PAGE_ROWS} runs a page. Order sorts all of them; a click on a column's name sorts this page.")
    return selected


def in_groups(shown: pd.DataFrame, group: str, more: Sequence[str], summary: pd.DataFrame) -> list[str]:
    """Draw a summary row for each group, then the groups, folded unless the address names them (`?in=`).

    Returns the ids of the selected rows of all open ones.
    """
    st.dataframe(
        summary,
        hide_index=True,
        column_config=GROUP_COLUMNS,
        placeholder="–",
        height=min(38 + 35 * len(summary), 320),
        alt=f"Runs by {group}: mean and best exact acceptance per group",
    )
    names = runs_table.group_names(shown, group)
    opened = st.query_params.get_all("in")
    url_warnings.handled("in")
    absent = [name for name in opened if name not in names]
    if absent:
        st.warning(f"No group here is called {ui.text(', '.join(absent))}.", icon=":material/link_off:")
    lines = {str(name): _line(str(name), rows) for name, rows in summary.groupby("group", sort=False)}
    selected: list[str] = []
    for name in [*(name for name in names[:_MOST_GROUPS]), *(one for one in opened if one in names[_MOST_GROUPS:])]:
        key = f"fold-{digest([group, name])}"
        with st.expander(lines[name], expanded=name in opened, key=key, on_change=_folded, args=(name,)):
            if name in opened:
                members = runs_table.in_group(shown, group, name)
                selected += table(members.head(PAGE_ROWS), more, key)
                if len(members) > PAGE_ROWS:
                    st.caption(f"The first {PAGE_ROWS} of {len(members)} in this order; narrow the filters for others.")
    if len(names) > _MOST_GROUPS:
        st.caption(f"{_MOST_GROUPS} of {len(names)} groups can be unfolded here; narrow the filters for others.")
    return list(dict.fromkeys(selected))


def table(shown: pd.DataFrame, more: Sequence[str], name: str) -> list[str]:
    """Draw the rows, with settings and rates `more` beside the figures, and return the ids of the selected ones.

    Streamlit keeps a selection by row number, so the widget's key changes with the rows and the selection is passed
    on to it.
    """
    ids = list(shown.run_id)
    key = f"table-{digest([name, *ids])}"
    before = set(st.session_state.get("_selected", ()))
    chosen = [place for place, run_id in enumerate(ids) if run_id in before]
    marked = shown.baseline | shown.pinned | shown.archived | shown.problems.astype(bool) | shown["sample"]
    hidden = {name for name, needed in (("problems", shown.problems), ("marks", marked)) if not any(needed)}
    rows, order = runs_table.cells(shown), [name for name in COLUMNS if name not in hidden]
    order[order.index("speedup") + 1 : 1 + order.index("speedup")] = more  # in sight, beside the figures
    button = st.column_config.ButtonColumn(
        "Open", type="tertiary", help="Opens the run's page.", key=f"open-{key}", on_click=_pressed, args=(key, ids)
    )
    event: Any = st.dataframe(
        runs_table.with_columns(rows, shown, queries.wide(), more) if more else rows,
        key=key,
        hide_index=True,
        column_config={**COLUMNS, **titled(more), "open": button},
        column_order=order,
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": chosen}} if chosen else None,
        height=min(38 + 35 * max(len(ids), 1), 560),
        placeholder="–",
        alt=f"{len(ids)} runs with state, recipe and measurement",
    )
    return [ids[row] for row in event["selection"]["rows"] if row < len(ids)]


def titled(names: Sequence[str]) -> dict[str, Any]:
    """Columns with titles for people; their help is the name that a condition uses."""
    return {name: st.column_config.Column(title_of(name), help=f"`{name}` in a condition") for name in names}


def digest(parts: Sequence[str]) -> str:
    """A short name for a widget that belongs to these texts."""
    return hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()[:12]


def _pressed(key: str, ids: Sequence[str]) -> None:
    click = st.session_state.get(f"open-{key}")
    if click is not None and click["row"] < len(ids):
        st.session_state[_OPEN] = ids[click["row"]]


def _folded(name: str) -> None:
    """Note in the address that the group was opened or closed."""
    opened = st.query_params.get_all("in")
    st.query_params["in"] = [one for one in opened if one != name] if name in opened else [*opened, name]


def _line(name: str, rows: pd.DataFrame) -> str:
    """'jsd, online: 12 runs · 0.412 ± 0.004 (n = 6 runs, 3 seeds)', with a part for each domain and temperature."""
    parts = []
    for row in rows.to_dict("records"):
        at = f", T = {row['temperature']:g}" if rows.temperature.nunique() > 1 and row["measured"] else ""
        figure = f"{row['domain']}{at}: " if len(rows) > 1 else ""
        if not row["measured"]:
            figure += "not measured"
        else:
            error = "" if pd.isna(row["error"]) else f" ± {row['error']:.3f}"
            error += "" if pd.isna(row["range"]) else f", range {row['range']}"
            figure += f"{row['mean']:.3f}{error} (n = {_count(row['measured'], 'run')}, {_count(row['seeds'], 'seed')})"
        parts.append(figure)
    shown = "; ".join(parts[:4]) + (" …" if len(parts) > 4 else "")
    return f"**{ui.text(name)}** · {_count(rows.runs.sum(), 'run')} · {ui.text(shown)}"


def _count(number: float, name: str) -> str:
    return f"{number:.0f} {name}{'s' if number != 1 else ''}"
