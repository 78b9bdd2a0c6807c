"""All that pages know of the results, as data frames and plain values. No page speaks SQL or opens a run folder's tables.

Frames are cached for a few seconds, or until the run they belong to changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from engine.index import queries as store
from engine.index.connection import reading
from engine.index.ingest import add_details, ingest_all, remove_missing
from engine.jobs.queue import wake
from engine.paths import Home
from engine.paths import home as _home
from engine.runs.folder import RunFolder
from engine.traces.measured import holds_traces

if TYPE_CHECKING:
    from engine.planning.doctor import HealthCheck

UNFINISHED = ("queued", "running")


def home() -> Home:
    """The home whose results are shown."""
    return _home()


@st.cache_data(ttl=4, show_spinner=False)
def _indexed(root: str) -> float:
    """Bring index and queue up to date with the run folders, at most once in a few seconds for all visitors."""
    ingest_all(home())
    remove_missing(home())
    wake(home())  # a worker that was killed leaves its queue behind
    return 0.0


def refresh() -> None:
    """Forget what was cached: call it after changing a run from a page."""
    _indexed.clear()
    _overview.clear()


def runs() -> pd.DataFrame:
    """A row a run, newest first: the columns of `engine.index.queries.overview`, `label` for people to read, live state.

    `state` is what is true now: 'interrupted' where a running run's process is gone.
    """
    _indexed(str(home().root))
    return _overview(str(home().root)).copy()


@st.cache_data(ttl=2, show_spinner=False)
def _overview(root: str) -> pd.DataFrame:
    with reading(home().index) as con:
        frame = store.overview(con)
    for column in ("pinned", "archived", "baseline"):
        frame[column] = frame[column].fillna(False).astype(bool)
    frame["state"] = frame["state"].fillna("damaged")
    unfinished = frame.state.isin(UNFINISHED)
    frame.loc[unfinished, "state"] = [_state_now(run_id) for run_id in frame.run_id[unfinished]]
    frame["label"] = [
        title if isinstance(title, str) and title else run for run, title in zip(frame.run_id, frame.title, strict=True)
    ]
    return frame


def _state_now(run_id: str) -> str:
    return str(RunFolder(home().run(run_id)).status().get("state", "damaged"))


def traced() -> set[str]:
    """Ids of the measured runs that hold traces to replay."""
    known = runs()
    return {run_id for run_id in known[~known.exact.isna()].run_id if holds_traces(RunFolder(home().run(run_id)))}


def active() -> pd.DataFrame:
    """Runs that are queued or running now."""
    known = runs()
    return known[known.state.isin(UNFINISHED)]


def run(run_id: str) -> store.Run:
    """One run as indexed, with configuration, provenance and the measurement's summary."""
    _indexed(str(home().root))
    with reading(home().index) as con:
        return store.get_run(con, run_id)


def folder(run_id: str) -> RunFolder:
    """The run's folder; an id that would leave the runs folder is refused."""
    return RunFolder.open(home(), run_id)


def metrics(run_ids: list[str]) -> pd.DataFrame:
    """Every measured value of the runs with interval and conditions, one row a value."""
    with reading(home().index) as con:
        return store.metrics(con, run_ids)


def curve(run_ids: list[str]) -> pd.DataFrame:
    """Loss and watched acceptance by step, tokens and seconds."""
    with reading(home().index) as con:
        return store.curve(con, run_ids)


def studied() -> pd.DataFrame:
    """Every run with all that decides what it may be compared with; see `engine.index.queries.studied`."""
    _indexed(str(home().root))
    with reading(home().index) as con:
        return store.studied(con)


def prompt_sums(run_ids: list[str]) -> pd.DataFrame:
    """Exact acceptance a held-out prompt, of many runs and both drafts at once."""
    add_details(home(), run_ids)
    with reading(home().index) as con:
        return store.prompt_sums(con, run_ids)


def exact_values() -> pd.DataFrame:
    """Exact acceptance of every trained draft at every measured temperature, with its interval."""
    _indexed(str(home().root))
    with reading(home().index) as con:
        return store.exact_values(con)


def measured(run_ids: list[str], temperature: float) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Sums per prompt, rounds, and greedy agreement per token of the runs' trained drafts at one temperature."""
    add_details(home(), run_ids)
    with reading(home().index) as con:
        return (
            store.prompts_of(con, run_ids, temperature),
            store.rounds_of(con, run_ids, temperature),
            store.agreement_of(con, run_ids, temperature),
        )


def leaderboard() -> pd.DataFrame:
    """The best draft of each target and domain by exact acceptance, the fastest first.

    Archived runs and failed certificates do not compete, nor do runs measured on fewer held-out
    prompts than others of the same target and domain: theirs is another, easier race.
    """
    known = runs()
    fit = known[~known.exact.isna() & ~known.archived & known.certificate.fillna(False).astype(bool)]
    race = ["target", "domain", "temperature"]
    fit = fit[fit.n_prompts == fit.groupby(race).n_prompts.transform("max")]
    best = fit.sort_values("exact", ascending=False).drop_duplicates(race)
    return best.sort_values("speedup", ascending=False)


@st.cache_data(ttl=30, show_spinner=False)
def health() -> list[HealthCheck]:
    """What `draftbench doctor` looks at. The first call loads torch."""
    from engine.planning.doctor import health as look

    return look(home())
