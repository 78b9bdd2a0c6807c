"""The run pickers of all pages: what they offer, in what order, under which names, and what they open on.

A picker offers the runs that its page can show, never one that would only show an error. One's own runs
come first, newest first; the samples that came with Draftbench follow and say so in their names; archived runs are
left out unless the address names them. Without a run in the address a page opens on one that works: one's own before a
sample, a running or finished one before one that failed. `choose_run` is the picker of one run, kept in the address as
`?run=`; `pick_runs` that of several; `offered`, `names` and `opens_on` are the same rules for a page with widgets of
its own, as pure functions on the frame of `queries.runs()`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
import streamlit as st

from engine.paths import is_run_name
from workbench.shared import queries, ui, url_warnings

SAMPLE = "sample, measured elsewhere"
_FIRST = ("running", "queued", "done")  # states that a page opens on before any other


def measured_runs(*, also: Collection[str] = ()) -> pd.DataFrame:
    """The runs to offer to a page about measurements; `also`: ids that the address names, offered though archived."""
    known = queries.runs()
    return offered(known[known.exact.notna()], also)


def offered(known: pd.DataFrame, also: Collection[str] = ()) -> pd.DataFrame:
    """The rows without archived ones, unless there are no others; own runs before samples, else as ordered."""
    shown = known[~known.archived | known.run_id.isin(also)]
    return (shown if len(shown) else known).sort_values("sample", kind="stable")


def names(runs: pd.DataFrame) -> dict[str, str]:
    """Id -> distinct display name; a sample's says that it is one."""
    pairs = zip(runs.label, runs["sample"], strict=True)
    marked = [f"{label} · {SAMPLE}" if sample else str(label) for label, sample in pairs]
    return ui.distinct(dict(zip(runs.run_id, marked, strict=True)))


def opens_on(runs: pd.DataFrame) -> str | None:
    """The run to open on without a choice: the first of one's own that runs or is done, then such a sample."""
    if runs.empty:
        return None
    for group in (runs[~runs["sample"]], runs[runs["sample"]]):
        for state in _FIRST:
            if (group.state == state).any():
                return str(group.run_id[group.state == state].iloc[0])
    return str(runs.run_id.iloc[0])


def choose_run(label: str, key: str = "run", *, forget: Sequence[str] = ()) -> str | None:
    """Let the visitor choose a run; None if there is none.

    The address keeps the id under `key`. An id there that names no such run is offered too, because only the page can
    say what is wrong with it. `forget`: parameters of the address that say nothing about another run.
    """
    named = st.query_params.get(key)
    shown = offered(queries.runs(), (named,) if named else ())
    labels = names(shown)
    options = list(shown.run_id)
    if named and named not in labels and is_run_name(named):
        options, labels = [named, *options], {**labels, named: named}
    if not options:
        return None
    return ui.choose_one(label, options, labels, key, default=opens_on(shown), forget=forget)


def pick_runs(
    label: str,
    key: str,
    *,
    most: int | None = None,
    default: Sequence[str] = (),
    among: Sequence[str] | None = None,
) -> list[str]:
    """Let the visitor choose measured runs, kept in the address under `key`.

    `among`: the ids to choose from, besides those in the address; all runs if not given.
    """
    asked = st.query_params.get_all(key)
    shown = measured_runs(also=asked)
    if among is not None:
        shown = shown[shown.run_id.isin([*among, *asked])]
    options, labels = list(shown.run_id), names(shown)
    _say_missing(key, options)
    ui.follow_address(key, options, [run_id for run_id in default if run_id in options])
    st.session_state[key] = st.session_state[key][:most]
    if key not in st.query_params:
        ui.note_default(key, st.session_state[key])
    run_ids: list[str] = st.multiselect(
        label,
        options,
        format_func=lambda run_id: labels.get(run_id, run_id),
        key=key,
        on_change=ui.write_address,
        args=(key,),
        max_selections=most,
    )
    return run_ids


def _say_missing(key: str, options: Sequence[str]) -> None:
    """Warn about runs that the address names and that cannot be shown."""
    missing = [value for value in st.query_params.get_all(key) if value not in options]
    if missing:
        url_warnings.handled(key)
        st.warning(
            f"Not shown, because the run does not exist here or is not measured: {ui.text(', '.join(missing))}",
            icon=":material/link_off:",
        )
