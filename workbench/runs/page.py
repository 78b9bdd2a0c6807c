"""The Runs page: all runs in one table, to search, group, label, and open on other pages."""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.index.expressions import EXAMPLE, matching_runs
from engine.records.labels import Labels
from engine.runs.folder import RunFolder
from engine.runs.labels import change_labels, edit_labels, make_baseline
from workbench.runs import table as runs_table
from workbench.runs.columns import COLUMNS, GROUP_COLUMNS
from workbench.shared import actions, downloads, label_form, queries, ui
from workbench.shared.method_names import SUPERVISION, mode_word

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
    group.selectbox("Group by", ["nothing", *runs_table.GROUPS], key="group", bind="query-params")
    archived.selectbox("Archived", runs_table.ARCHIVED, key="archived", bind="query-params")
    st.text_input(
        "Condition",
        key="where",
        bind="query-params",
        placeholder=f"{EXAMPLE}, train.learning_rate >= 1e-3, argmax_1 > exact_1",
        help="Any setting of a recipe by its dotted name, any column of the table, and any rate with its temperature "
        "(`tau_0`, `argmax_1`), compared as in SQL.",
    )
    narrowed = any(st.query_params.get_all(name) for name in (*runs_table.CHOOSABLE, "tag"))
    values = {}
    with st.expander("More filters", icon=":material/filter_list:", expanded=narrowed):
        places = st.columns(4)
        for index, column in enumerate((*runs_table.CHOOSABLE, "tags")):
            key = "tag" if column == "tags" else column
            values[column] = tuple(
                places[index % 4].multiselect(
                    _LABELS.get(column, "Tag"),
                    runs_table.choices(known, column),
                    key=key,
                    bind="query-params",
                    placeholder="all",
                    format_func=filter_label,
                )
            )
        taken = {*COLUMNS, "run_id", "label", "updated_at", "folder", "name"}
        st.multiselect(
            "More columns",
            [name for name in queries.wide().columns if name not in taken],
            key="columns",
            bind="query-params",
            placeholder="any setting or rate",
        )
    tags = values.pop("tags")
    state = st.session_state
    return runs_table.Filters(state["q"] or "", tuple(values.items()), tags, state["archived"], state["where"] or "")


def fulfilling(shown: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The rows for which the condition is true; all of them, with an error on the page, if it cannot be evaluated."""
    if not condition.strip():
        return shown
    try:
        kept = matching_runs(queries.wide(), condition)
    except DraftbenchError as error:
        ui.error_box(error)
        return shown
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


def groups(shown: pd.DataFrame, group: str) -> pd.DataFrame:
    """Draw a summary row per group, and return the rows of the selected group."""
    summary = runs_table.group_summary(shown, group)
    st.dataframe(
        summary,
        hide_index=True,
        column_config=GROUP_COLUMNS,
        placeholder="–",
        height=min(38 + 35 * len(summary), 320),
        alt=f"Runs by {group}: number of runs and best exact acceptance per group",
    )
    name = st.selectbox("Show", ["all groups", *runs_table.group_names(shown, group)], key="in", bind="query-params")
    return shown if name == "all groups" else runs_table.in_group(shown, group, name)


def table(shown: pd.DataFrame) -> list[str]:
    """Draw the table and return the ids of the selected rows.

    Streamlit keeps a selection by row number, so the widget's key changes with the rows and the selection is passed
    on to it.
    """
    ids = list(shown.run_id)
    key = "table-" + hashlib.sha1("\n".join(ids).encode(), usedforsecurity=False).hexdigest()[:12]
    before = set(st.session_state.get("_selected", ()))
    chosen = [place for place, run_id in enumerate(ids) if run_id in before]
    marked = shown.baseline | shown.pinned | shown.archived | shown.problems.astype(bool)
    hidden = {name for name, needed in (("problems", shown.problems), ("marks", marked)) if not any(needed)}
    more = st.session_state.get("columns") or []
    rows, order = runs_table.cells(shown), [name for name in COLUMNS if name not in hidden]
    order[order.index("speedup") + 1 : 1 + order.index("speedup")] = more  # in sight, beside the figures
    event: Any = st.dataframe(
        runs_table.with_columns(rows, shown, queries.wide(), more) if more else rows,
        key=key,
        hide_index=True,
        column_config=COLUMNS,
        column_order=order,
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": chosen}} if chosen else None,
        height=min(38 + 35 * max(len(ids), 1), 560),
        placeholder="–",
        alt=f"{len(ids)} runs with state, recipe and measurement",
    )
    selected = [ids[row] for row in event["selection"]["rows"] if row < len(ids)]
    st.session_state["_selected"] = selected
    return selected


def change(run_ids: list[str], message: str, **labels: Any) -> str:
    """Change these labels of every run; return the message."""
    for run_id in run_ids:
        change_labels(queries.home(), queries.folder(run_id), **labels)
    return message


def set_baseline(run_id: str, label: str, seen: str) -> str:
    """Make the run the baseline, unless another tab has made another one so since this one was drawn with `seen`."""
    make_baseline(queries.home(), queries.folder(run_id), seen)
    return f"{label} is now the baseline."


def archive(run_ids: list[str]) -> str:
    """Hide runs from lists, and say where their folders are."""
    single = len(run_ids) == 1
    where = str(queries.folder(run_ids[0]).path) if single else f"{queries.home().runs} ({', '.join(run_ids)})"
    message = (
        f"Archived {count(run_ids)}: hidden from lists; nothing is deleted. "
        f"To remove {'it' if single else 'them'} for good, delete {where} yourself."
    )
    return change(run_ids, message, archived=True, pinned=False)


def count(run_ids: list[str]) -> str:
    return f"{len(run_ids)} run{'s' if len(run_ids) != 1 else ''}"


def selection_bar(selected: pd.DataFrame, known_tags: list[str]) -> None:
    """Draw links and buttons for the selected runs."""
    ids = list(selected.run_id)
    names = ", ".join(f"**{ui.text(label)}**" for label in selected.label[:3])
    st.markdown(f"{count(ids)} selected: {names}{' …' if len(ids) > 3 else ''}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(ids) == 1:
            ui.goto("run", "Open", icon=":material/monitoring:", run=ids[0])
            ui.goto("launch", "Launch from it", icon=":material/rocket_launch:", **{"from": ids[0]})
        if 2 <= len(ids) <= 6:
            ui.goto("compare", f"Compare these {len(ids)}", icon=":material/compare_arrows:", runs=ids)
        mark_buttons(ids, selected)
    if len(ids) > 6:
        st.caption("The Compare page takes two to six runs.")
    labels_form(ids, selected, known_tags)


def mark_buttons(ids: list[str], selected: pd.DataFrame) -> None:
    """Draw the buttons for pin, baseline and archive, and their opposites where they apply."""
    if not selected.pinned.all():
        actions.button(
            "Pin", lambda: change(ids, f"Pinned {count(ids)}.", pinned=True), key="pin", icon=":material/keep:"
        )
    if selected.pinned.any():
        actions.button(
            "Unpin",
            lambda: change(ids, f"Unpinned {count(ids)}.", pinned=False),
            key="unpin",
            icon=":material/keep_off:",
        )
    if len(ids) == 1 and not selected.baseline.iloc[0]:
        label, seen = selected.label.iloc[0], queries.baseline()
        actions.button(
            "Set as baseline", lambda: set_baseline(ids[0], label, seen), key="baseline", icon=":material/star:"
        )
    if selected.baseline.any():
        actions.button(
            "Unset baseline",
            lambda: change(ids, "No run is the baseline now.", baseline=False),
            key="unbaseline",
            icon=":material/star_border:",
        )
    if not selected.archived.all():
        actions.button(
            "Archive",
            lambda: archive(ids),
            key="archive",
            icon=":material/archive:",
            help="Hides the runs from lists; nothing is deleted.",
        )
    if selected.archived.any():
        actions.button(
            "Unarchive",
            lambda: change(ids, f"{count(ids)} restored to lists.", archived=False),
            key="unarchive",
            icon=":material/unarchive:",
        )


def labels_form(ids: list[str], selected: pd.DataFrame, known_tags: list[str]) -> None:
    """Draw the form for the title, tags and note of one run, or for adding tags and a note to several."""
    mark = hashlib.sha1("\n".join(ids).encode(), usedforsecurity=False).hexdigest()[:8]
    with st.expander("Title, tags and note" if len(ids) == 1 else "Tags and note", icon=":material/label:"):
        if len(ids) > 1:
            many_form(ids, mark, selected, known_tags)
            return
        run = queries.folder(ids[0])
        labels = label_form.labels_of(run)
        if labels is not None:
            one_form(run, mark, labels, known_tags)


def one_form(run: RunFolder, mark: str, labels: Labels, known_tags: list[str]) -> None:
    """Draw the form for the labels of one run."""
    keys = {name: f"{name}-{mark}" for name in ("title", "tags", "notes")}
    labels = label_form.drawn_with(mark, keys, labels)

    def save() -> str:
        label_form.save(run, mark, keys)
        return "Saved."

    with st.form(f"labels-{mark}"):
        st.text_input("Title", labels.title, key=keys["title"], max_chars=120, placeholder=run.id)
        st.multiselect(
            "Tags", sorted({*known_tags, *labels.tags}), list(labels.tags), key=keys["tags"], accept_new_options=True
        )
        st.text_area("Note", labels.notes, key=keys["notes"], max_chars=20_000)
        actions.submit("Save", save, key=f"save-{mark}", icon=":material/save:")


def many_form(ids: list[str], mark: str, selected: pd.DataFrame, known_tags: list[str]) -> None:
    """Draw the form that adds tags and a note to several runs and removes tags."""
    keys = {name: f"{name}-{mark}" for name in ("tags", "drop", "notes")}
    with st.form(f"labels-{mark}"):
        st.multiselect("Add tags", known_tags, key=keys["tags"], accept_new_options=True)
        st.multiselect("Remove tags", sorted({tag for tags in selected.tags for tag in tags}), key=keys["drop"])
        st.text_area("Add to each note", key=keys["notes"])
        actions.submit("Save", lambda: save_many(ids, keys), key=f"save-{mark}", icon=":material/save:")


def save_many(ids: list[str], keys: dict[str, str]) -> str:
    """Add tags and a note to each run's own, and remove tags."""
    state = st.session_state

    def added(present: Labels) -> dict[str, Any]:
        tags = [tag for tag in (*present.tags, *state[keys["tags"]]) if tag not in state[keys["drop"]]]
        notes = "\n\n".join(part for part in (present.notes, state[keys["notes"]].strip()) if part)
        return {"tags": tags, "notes": notes}

    for run_id in ids:
        edit_labels(queries.home(), queries.folder(run_id), added)
    return f"Saved for {count(ids)}."


def render() -> None:
    """Draw the page."""
    ui.heading("runs")
    known = runs_table.prepared(runs_table.with_unindexed(queries.runs(), queries.home()))
    actions.outcome()
    if known.empty:
        ui.empty(
            "No runs yet. A run trains one draft and measures it; the quick recipe takes a few minutes.",
            "Start a run",
            "launch",
        )
        return
    wanted = filters(known)
    shown = fulfilling(runs_table.matching(known, wanted), wanted.condition)
    group = st.session_state["group"]
    if shown.empty:
        hidden = int(known.archived.sum()) if wanted.archived == "hidden" else 0
        archived = f", {hidden} of them archived" if hidden else ""
        st.info(f"No run matches these filters; there are {len(known)} runs{archived}.")
        st.button("Clear filters", key="clear", on_click=clear, icon=":material/filter_list_off:")
        return
    if group != "nothing":
        shown = groups(shown, group)
    shown = runs_table.ordered(shown, st.session_state["order"], None if group == "nothing" else group)
    selected = table(shown)
    measured = int(shown.exact.notna().sum())
    st.caption(
        f"{len(shown)} of {len(known)} runs, {measured} measured. "
        "Select rows to label, compare or archive them; click a column's name to sort."
    )
    downloads.download_row(
        "runs",
        "runs",
        frame=runs_table.for_csv(shown),
        paper=runs_table.for_paper(shown),
        caption="Exact acceptance per run, with 95% interval over prompts",
    )
    if selected:
        selection_bar(shown[shown.run_id.isin(selected)], runs_table.choices(known, "tags"))
