"""All runs in one table: find them, group them, label them, and take some along to another page."""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd
import streamlit as st

from engine.runs.folder import RunFolder
from engine.runs.labels import Labels, change_labels, edit_labels
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
    """The row of filters; each is kept in the address."""
    search, order, group, archived = st.columns([4, 2, 2, 2])
    search.text_input(
        "Search", key="q", bind="query-params", type="search", placeholder="words in id, title, tags or note"
    )
    order.selectbox("Order", list(runs_table.ORDERS), key="order", bind="query-params", help="Pinned runs come first.")
    group.selectbox("Group by", ["nothing", *runs_table.GROUPS], key="group", bind="query-params")
    archived.selectbox("Archived", runs_table.ARCHIVED, key="archived", bind="query-params")
    narrowed = any(st.query_params.get_all(name) for name in (*runs_table.CHOOSABLE, "tag"))
    chosen = {}
    with st.expander("More filters", icon=":material/filter_list:", expanded=narrowed):
        places = st.columns(4)
        for index, column in enumerate((*runs_table.CHOOSABLE, "tags")):
            key = "tag" if column == "tags" else column
            chosen[column] = tuple(
                places[index % 4].multiselect(
                    _LABELS.get(column, "Tag"),
                    runs_table.choices(known, column),
                    key=key,
                    bind="query-params",
                    placeholder="all",
                    format_func=words_of,
                )
            )
    tags = chosen.pop("tags")
    state = st.session_state
    return runs_table.Filters(state["q"] or "", tuple(chosen.items()), tags, state["archived"])


def words_of(value: str) -> str:
    """A mode or a supervision as the table writes it; everything else as it is."""
    return SUPERVISION.get(value, mode_word(value))


def clear() -> None:
    """Let every run through again, in the address too."""
    st.session_state["q"] = ""
    for name in (*runs_table.CHOOSABLE, "tag"):
        st.session_state[name] = []
    st.session_state["archived"] = "shown" if st.session_state["archived"] == "shown" else "hidden"


def groups(shown: pd.DataFrame, group: str) -> pd.DataFrame:
    """A summary row for each group, and the rows of the group that was chosen."""
    summary = runs_table.group_summary(shown, group)
    st.dataframe(
        summary,
        hide_index=True,
        column_config=GROUP_COLUMNS,
        placeholder="–",
        height=min(38 + 35 * len(summary), 320),
        alt=f"Runs by {group}: count and best exact acceptance of each group",
    )
    name = st.selectbox("Show", ["all groups", *runs_table.group_names(shown, group)], key="in", bind="query-params")
    return shown if name == "all groups" else runs_table.in_group(shown, group, name)


def table(shown: pd.DataFrame) -> list[str]:
    """The table; returns the ids of the selected rows.

    A selection is kept by row number, so the widget's key changes with the rows, and what was selected before is handed on.
    """
    ids = list(shown.run_id)
    key = "table-" + hashlib.sha1("\n".join(ids).encode(), usedforsecurity=False).hexdigest()[:12]
    before = set(st.session_state.get("_selected", ()))
    rows = [place for place, run_id in enumerate(ids) if run_id in before]
    marked = shown.baseline | shown.pinned | shown.archived | shown.problems.astype(bool)
    hidden = {name for name, needed in (("problems", shown.problems), ("marks", marked)) if not any(needed)}
    event: Any = st.dataframe(
        runs_table.cells(shown),
        key=key,
        hide_index=True,
        column_config=COLUMNS,
        column_order=[name for name in COLUMNS if name not in hidden],
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": rows}} if rows else None,
        height=min(38 + 35 * max(len(ids), 1), 560),
        placeholder="–",
        alt=f"{len(ids)} runs with state, recipe and measurement",
    )
    selected = [ids[row] for row in event["selection"]["rows"] if row < len(ids)]
    st.session_state["_selected"] = selected
    return selected


def change(run_ids: list[str], told: str, **labels: Any) -> str:
    """Give every run the labels."""
    for run_id in run_ids:
        change_labels(queries.home(), queries.folder(run_id), **labels)
    return told


def archive(run_ids: list[str]) -> str:
    """Hide runs from lists, and say where they lie."""
    where = [str(queries.folder(run_id).path) for run_id in run_ids]
    places = where[0] if len(where) == 1 else f"{queries.home().runs} ({', '.join(run_ids)})"
    told = f"Archived {count(run_ids)}: hidden from lists, nothing is deleted. To remove it for good, delete {places} yourself."
    return change(run_ids, told, archived=True, pinned=False)


def count(run_ids: list[str]) -> str:
    return f"{len(run_ids)} run{'s' if len(run_ids) != 1 else ''}"


def bar(chosen: pd.DataFrame, known_tags: list[str]) -> None:
    """What can be done with the selected runs."""
    ids = list(chosen.run_id)
    names = ", ".join(f"**{ui.text(label)}**" for label in chosen.label[:3])
    st.markdown(f"{count(ids)} selected: {names}{' …' if len(ids) > 3 else ''}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(ids) == 1:
            ui.goto("run", "Open", icon=":material/monitoring:", run=ids[0])
            ui.goto("launch", "Launch from it", icon=":material/rocket_launch:", **{"from": ids[0]})
        if 2 <= len(ids) <= 6:
            ui.goto("compare", f"Compare these {len(ids)}", icon=":material/compare_arrows:", runs=ids)
        marked_buttons(ids, chosen)
    if len(ids) > 6:
        st.caption("Compare takes two to six runs.")
    labels_form(ids, chosen, known_tags)


def marked_buttons(ids: list[str], chosen: pd.DataFrame) -> None:
    """Pin, baseline and archive, each with its opposite where it applies."""
    if not chosen.pinned.all():
        actions.button(
            "Pin", lambda: change(ids, f"Pinned {count(ids)}.", pinned=True), key="pin", icon=":material/keep:"
        )
    if chosen.pinned.any():
        actions.button(
            "Unpin",
            lambda: change(ids, f"Unpinned {count(ids)}.", pinned=False),
            key="unpin",
            icon=":material/keep_off:",
        )
    if len(ids) == 1 and not chosen.baseline.iloc[0]:
        told = f"{chosen.label.iloc[0]} is the baseline now."
        actions.button(
            "Set as baseline", lambda: change(ids, told, baseline=True), key="baseline", icon=":material/star:"
        )
    if chosen.baseline.any():
        actions.button(
            "Not the baseline",
            lambda: change(ids, "There is no baseline now.", baseline=False),
            key="unbaseline",
            icon=":material/star_border:",
        )
    if not chosen.archived.all():
        actions.button(
            "Archive",
            lambda: archive(ids),
            key="archive",
            icon=":material/archive:",
            help="Hides it from lists; nothing is deleted.",
        )
    if chosen.archived.any():
        actions.button(
            "Unarchive",
            lambda: change(ids, f"{count(ids)} shown in lists again.", archived=False),
            key="unarchive",
            icon=":material/unarchive:",
        )


def labels_form(ids: list[str], chosen: pd.DataFrame, known_tags: list[str]) -> None:
    """Title, tags and note of one run; tags and an added note for several."""
    mark = hashlib.sha1("\n".join(ids).encode(), usedforsecurity=False).hexdigest()[:8]
    with st.expander("Title, tags and note" if len(ids) == 1 else "Tags and note", icon=":material/label:"):
        if len(ids) > 1:
            many_form(ids, mark, chosen, known_tags)
            return
        run = queries.folder(ids[0])
        labels = label_form.labels_of(run)
        if labels is not None:
            one_form(run, mark, labels, known_tags)


def one_form(run: RunFolder, mark: str, labels: Labels, known_tags: list[str]) -> None:
    """The labels of one run, to be changed."""
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


def many_form(ids: list[str], mark: str, chosen: pd.DataFrame, known_tags: list[str]) -> None:
    """Tags and a note to add to several runs, tags to take away."""
    keys = {name: f"{name}-{mark}" for name in ("tags", "drop", "notes")}
    with st.form(f"labels-{mark}"):
        st.multiselect("Add tags", known_tags, key=keys["tags"], accept_new_options=True)
        st.multiselect("Remove tags", sorted({tag for tags in chosen.tags for tag in tags}), key=keys["drop"])
        st.text_area("Add to the note of each", key=keys["notes"])
        actions.submit("Save", lambda: save_many(ids, keys), key=f"save-{mark}", icon=":material/save:")


def save_many(ids: list[str], keys: dict[str, str]) -> str:
    """Each run keeps its own tags and note, and gets what was added."""
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
            "There are no runs yet. A run trains one draft and measures it; the quick recipe takes minutes.",
            "Start a run",
            "launch",
        )
        return
    asked = filters(known)
    shown = runs_table.matching(known, asked)
    group = st.session_state["group"]
    if shown.empty:
        hidden = int(known.archived.sum()) if asked.archived == "hidden" else 0
        st.info(
            f"No run fits these filters; {len(known)} are known" + (f", {hidden} of them archived." if hidden else ".")
        )
        st.button("Clear the filters", key="clear", on_click=clear, icon=":material/filter_list_off:")
        return
    if group != "nothing":
        shown = groups(shown, group)
    shown = runs_table.ordered(shown, st.session_state["order"], None if group == "nothing" else group)
    selected = table(shown)
    measured = int(shown.exact.notna().sum())
    st.caption(
        f"{len(shown)} of {len(known)} runs, {measured} measured. "
        "Select rows to label, compare or archive them; a click on a column's name sorts."
    )
    downloads.download_row(
        "runs",
        "runs",
        frame=runs_table.for_csv(shown),
        paper=runs_table.for_paper(shown),
        caption="Runs with their exact acceptance, 95% interval over prompts",
    )
    if selected:
        bar(shown[shown.run_id.isin(selected)], runs_table.choices(known, "tags"))
