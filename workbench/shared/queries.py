"""The results as data frames and plain values: the pages' only access to the index and to a run folder's tables.

Bounds of fewer than `LEAST_PROMPTS` prompts are NaN here: no page shows them or ranks by them. The overview is cached
for a few seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.findings.kept import state_of
from engine.index import queries as store
from engine.index.connection import reading
from engine.index.contents import MEASURED_ONLY
from engine.index.expressions import recipe_names, wide_table
from engine.index.ingest import add_details, ingest_all
from engine.jobs.executors import wake_all
from engine.numbers import LEAST_PROMPTS
from engine.paths import Home, run_id_of
from engine.paths import home as _home
from engine.records.folders import run_names
from engine.runs import trash
from engine.runs.folder import RunFolder
from engine.runs.samples import laid_out
from engine.traces.measured import holds_traces

if TYPE_CHECKING:
    from engine.planning.doctor import HealthCheck

UNFINISHED = ("queued", "running")


def home() -> Home:
    """The home folder whose results are shown."""
    return _home()


@st.cache_data(ttl=4, show_spinner=False)
def _indexed(root: str) -> float:
    """Update index and queue from the run folders, at most once every few seconds for all visitors together."""
    ingest_all(home(), quick=True)
    trash.sweep(home())
    if _any_unfinished():
        wake_all(home())  # restarts a queue, or a cluster's driver, that was killed
    return 0.0


def _any_unfinished() -> bool:
    """Whether the index holds a run that waits or is worked on, or one whose status could not be read."""
    with reading(home().index) as con:
        row = con.execute("SELECT count(*) FROM runs WHERE state IS NULL OR state IN ('queued', 'running')").fetchone()
    return bool(row and row[0])


def refresh() -> None:
    """Clear the caches: to be called after changing a run from a page."""
    _indexed.clear()
    _overview.clear()
    _holding.clear()


def runs() -> pd.DataFrame:
    """One row per run, newest first: the columns of `engine.index.queries.overview`, and `label`, its display name.

    `state` is the current one: 'interrupted' if the process of a running run has ended. `sample`: the run came with
    Draftbench and was measured elsewhere.
    """
    _indexed(str(home().root))
    return _overview(str(home().root))[0].copy()


# `cache_data` would read ten thousand rows from a pickle each time
@st.cache_resource(ttl=2, max_entries=2, show_spinner=False)
def _overview(root: str) -> tuple[pd.DataFrame, str]:
    """The runs, and a text that changes when one is added, removed, finished or relabelled."""
    with reading(home().index) as con:
        frame = store.overview(con)
    frame = _trusted(frame, "n_prompts", "exact_low", "exact_high")
    frame = _trusted(frame, "speedup_prompts", "speedup_low", "speedup_high")
    for column in ("pinned", "archived", "baseline"):
        frame[column] = frame[column].fillna(False).astype(bool)
    frame["sample"] = frame.run_id.isin(laid_out(home()))
    frame["state"] = frame["state"].fillna("damaged")
    unfinished = frame.state.isin(UNFINISHED)
    frame.loc[unfinished, "state"] = [_state_now(run_id) for run_id in frame.run_id[unfinished]]
    frame["label"] = [
        title if isinstance(title, str) and title else run for run, title in zip(frame.run_id, frame.title, strict=True)
    ]
    settled = frame.updated_at.where(~frame.state.isin(UNFINISHED)).astype(str)
    labels = ["title", "notes", "pinned", "archived", "baseline"]
    stamp = pd.util.hash_pandas_object(frame[["run_id", "state", *labels]].assign(at=settled)).sum()
    return frame, str(stamp)


def baseline() -> str:
    """The id of the run that is marked as the baseline; "" if none is."""
    known = runs()
    return str(next(iter(known.run_id[known.baseline]), ""))


def wide() -> pd.DataFrame:
    """One row per run with every setting and every rate as a column: `engine.index.expressions.wide_table`.

    Made again only when a run is added, removed, finished or relabelled: it reads every recipe.
    """
    return _wide(str(home().root), _stamp())


def recipes() -> pd.Series[str]:
    """By run id a name that the seeds of one recipe share, and no other run: all settings are equal but the seed."""
    return _recipes(str(home().root), _stamp())


def _stamp() -> str:
    _indexed(str(home().root))
    return _overview(str(home().root))[1]


@st.cache_resource(max_entries=2, show_spinner=False)
def _recipes(root: str, stamp: str) -> pd.Series[str]:
    return recipe_names(_wide(root, stamp))


@st.cache_resource(max_entries=2, show_spinner=False)  # shared as it is: nobody changes it
def _wide(root: str, stamp: str) -> pd.DataFrame:
    with reading(home().index) as con:
        return wide_table(con)


def state() -> str:
    """A hash that changes whenever a run is added, removed, finished or relabelled."""
    _indexed(str(home().root))
    with reading(home().index) as con:
        return state_of(con, home())


def _state_now(run_id: str) -> str:
    return RunFolder(home().run(run_id)).status().state


@st.cache_data(ttl=4, show_spinner=False)
def _holding(root: str, what: str) -> set[str]:
    if what == "traces":
        known = runs()
        return {run_id for run_id in known[~known.exact.isna()].run_id if holds_traces(RunFolder(home().run(run_id)))}
    folder = str(home().runs)
    return {run_id_of(name) for name in run_names(home()) if os.path.isfile(f"{folder}/{name}/draft/best/draft.json")}


def holding(what: Literal["weights", "traces"]) -> set[str]:
    """Ids of the runs whose draft can be loaded, or that have traces to replay: asked of their folders."""
    return _holding(str(home().root), what)


def active() -> pd.DataFrame:
    """Runs that are queued or running now."""
    known = runs()
    return known[known.state.isin(UNFINISHED)]


def run(run_id: str) -> store.Run:
    """One run from the index, with configuration, provenance and the summary of its measurement."""
    _indexed(str(home().root))
    with reading(home().index) as con:
        return store.get_run(con, run_id)


def folder(run_id: str) -> RunFolder:
    """The run's folder. Raises DraftbenchError for an unknown id, and for one that would leave the runs folder.

    What is not a whole id is unknown: on a page that was drawn before a run was removed, a run that begins alike is
    not meant.
    """
    run = RunFolder.open(home(), run_id)
    if run.id != run_id:
        raise DraftbenchError(
            f"there is no run {run_id!r} any more", f"it is not in {home().runs}", "reload the page to see which are"
        )
    return run


def metrics(run_ids: list[str]) -> pd.DataFrame:
    """Every measured value of the runs with interval and conditions, one row per value."""
    with reading(home().index) as con:
        return _trusted(store.metrics(con, run_ids))


def curve(run_ids: list[str]) -> pd.DataFrame:
    """Training loss and watched acceptance by step, tokens and seconds."""
    with reading(home().index) as con:
        return store.curve(con, run_ids)


def exact_values() -> pd.DataFrame:
    """Exact acceptance of every trained draft at every measured temperature, with intervals."""
    _indexed(str(home().root))
    with reading(home().index) as con:
        return _trusted(store.exact_values(con))


def _trusted(frame: pd.DataFrame, n: str = "n_prompts", *bounds: str) -> pd.DataFrame:
    """The frame without the bounds that rest on too few prompts: of `low` and `high`, or of the columns named."""
    enough = ~(pd.to_numeric(frame[n]) < LEAST_PROMPTS).fillna(False).astype(bool)
    return frame.assign(**{name: frame[name].where(enough) for name in bounds or ("low", "high")})


def measured(run_ids: list[str], temperature: float) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Sums per prompt, rounds, and greedy agreement per token of the runs' trained drafts at one temperature."""
    add_details(home(), run_ids)
    with reading(home().index) as con:
        return (
            store.prompts_of(con, run_ids, temperature),
            store.rounds_of(con, run_ids, temperature),
            store.agreement_of(con, run_ids, temperature),
        )


def leaderboard(*, sample: bool) -> pd.DataFrame:
    """The best draft for each target and domain, sorted by speed-up: of one's own, or of samples.

    The best has the highest exact acceptance; among drafts whose interval reaches that one's, those whose weights are
    here come first, then the faster ones.
    Excludes archived runs, failed certificates, drafts that were measured as they are, and runs measured on another
    text than most with the same target and domain (`_on_one_text`), because their rates are not comparable.
    """
    known = runs()
    known = known[(known["sample"] == sample) & (known["mode"] != MEASURED_ONLY)]
    eligible = known[~known.exact.isna() & ~known.archived & known.certificate.fillna(False).astype(bool)]
    keys = ["target", "domain", "temperature"]
    eligible = _on_one_text(eligible, keys).sort_values("exact", ascending=False)
    of_best = eligible.exact_low.fillna(eligible.exact).groupby([eligible[key] for key in keys]).transform("first")
    reaches = eligible.exact_high.fillna(eligible.exact) >= of_best
    rivals = eligible[reaches].assign(here=lambda frame: frame.run_id.isin(holding("weights")))
    best = rivals.sort_values(["here", "speedup", "exact"], ascending=False).drop_duplicates(keys)
    return best.sort_values("speedup", ascending=False)


_TEXT = ["heldout_hash", "n_prompts", "text_settings", "dtype"]


def _on_one_text(rates: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Of the rows that share the keys those with the same prompts, lengths and sampling of the text, in one precision.

    Of several that of most prompts counts, then that of most runs, then the newest.
    """
    text = pd.Series("", index=rates.index)
    for name in _TEXT:
        text = text + rates[name].astype(object).where(rates[name].notna(), "none").astype(str) + " "
    named = rates.assign(_text=text)
    texts = named.groupby([*keys, "_text"], dropna=False)
    ranked = named.assign(_runs=texts.run_id.transform("size"), _newest=texts.created_at.transform("max"))
    ranked = ranked.sort_values(["n_prompts", "_runs", "_newest"], ascending=False)
    first = ranked.groupby(keys, dropna=False)["_text"].transform("first")
    return rates[rates.run_id.isin(ranked[ranked["_text"] == first].run_id)]


@st.cache_data(ttl=30, show_spinner=False)
def health() -> list[HealthCheck]:
    """The checks of `draftbench doctor`. The first call loads torch."""
    from engine.planning.doctor import health as checks

    return checks(home())
