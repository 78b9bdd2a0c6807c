"""Studies on the Launch page: the plan of one, a button that starts what is missing, and those begun here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT
from engine.progress import duration
from engine.records.study_tag import studies_of
from engine.served.keys import require_allowed
from engine.study.known import find, known
from engine.study.overview import overview
from engine.study.spec import StudySpec, dump_study, load_study
from engine.study.start import Study, start, study
from workbench.launch import from_findings, where
from workbench.launch.starting import about, title
from workbench.shared import actions, queries, ui

if TYPE_CHECKING:
    from engine.study.costs import Costs

STUDIES = PROJECT_ROOT / "recipes" / "studies"
_OTHER = "another file"


def section() -> None:
    """The whole tab."""
    actions.outcome()
    left, right = st.columns([3, 2], gap="large")
    with left:
        current = _choose()
        if current is not None:
            _plan(current)
    with right:
        _begun()


def _choose() -> Study | None:
    """The study of the recipe that is picked, with where its cells stand; None if there is none or it is not valid."""
    shipped = {f"recipes/studies/{path.name}": path for path in sorted(STUDIES.glob("*.yaml"))}
    begun = [f"begun here: {name}" for name in known(queries.home())]
    titles = {name: title(path) for name, path in shipped.items()}
    files = "  \n".join(f"{ui.text(words)}: `{name}`" for name, words in titles.items())
    asked = [name for name in st.query_params.get_all("study") if from_findings.is_claim(name)]
    labels = {**titles, _OTHER: _OTHER.capitalize(), **{name: from_findings.title(name) for name in asked}}
    name = ui.choose_one("Study", [*shipped, *begun, *asked, _OTHER], labels, "study", help=files)
    if name == _OTHER:
        if linked := st.query_params.get("study_path"):  # a file may hold rights: a link does not choose it
            st.warning(
                f"This link also asked for the study {ui.text(linked)}. Type its path yourself if you mean it.",
                icon=":material/shield:",
            )
        name = st.text_input("Path of its recipe", key="study_file", placeholder="my-study.yaml")
        if not name.strip():
            return None
    try:
        spec = _spec(name, shipped)
        return study(queries.home(), spec)
    except DraftbenchError as error:
        ui.error_box(error)
        return None


def _spec(name: str, shipped: dict[str, Path]) -> StudySpec:
    if name in shipped:
        st.caption(ui.sentence(about(shipped[name])))
        return load_study(shipped[name])
    if from_findings.is_claim(name):
        decides = from_findings.deciding(name)
        st.caption(ui.sentence(f"{decides.why[:1].upper()}{decides.why[1:]}."))
        return from_findings.spec(decides)
    return find(queries.home(), name.removeprefix("begun here: ").strip())


def _plan(current: Study) -> None:
    """The cells by state, the remaining cost, and the button."""
    counts, missing = current.counts, len(current.missing())
    with st.container(horizontal=True, gap="medium"):
        st.metric("Cells", len(current.placed), width="content")
        for state, count in counts.items():
            st.metric(state.capitalize(), count, width="content")
    if current.passed_over:
        st.warning(ui.text(_passed_over(current.passed_over)), icon=":material/sync_problem:")
    _cost(current)
    place = where.choose("study") if missing else None
    if missing and place is not None:
        actions.button(
            f"Start {missing} missing run{'s' if missing > 1 else ''}",
            lambda: _start(current, place),
            key="study-start",
            type="primary",
            icon=":material/playlist_add:",
        )
        st.caption(
            "Runs that are done are kept, also those made before the study. What failed or was stopped is continued. "
            "A cell that fails does not stop the others."
        )
    if counts.get("done") and current.name in studies_of(queries.runs()):
        with st.container(horizontal=True, gap="medium"):
            ui.goto("findings", "What it found", icon=":material/science:", study=current.name)
            ui.goto("compare", "Compare its runs", icon=":material/compare_arrows:", study=current.name)
    with st.expander(f"All {len(current.placed)} cells"):
        st.dataframe(_table(current), hide_index=True)


def _passed_over(sentences: list[str]) -> str:
    more = f" So were {len(sentences) - 1} more runs." if len(sentences) > 1 else ""
    first = sentences[0]
    return f"{first[0].upper()}{first[1:]}, so its cell is run again.{more}"


def _start(current: Study, place: str) -> str:
    for server in (one.cell.recipe.capture.server for one in current.missing()):
        if server is not None:
            require_allowed(queries.home(), server)
    done = start(queries.home(), current, on=place)
    return f"{len(done.submitted)} runs of study {current.name} were queued, {len(done.resumed)} continue."


def _cost(current: Study) -> None:
    """Time, disk and captures, computed on request, since every prompt of the study is read for it."""
    if current.counts.get("done", 0) == len(current.placed):
        return
    mark = (dump_study(current.spec), tuple(current.counts.items()))
    if st.button("Estimate time and disk", key="study-cost", icon=":material/timer:", help="Reads all its prompts."):
        from engine.study.costs import costs  # needs torch

        with st.spinner("Reading prompts ..."):
            st.session_state["study:costs"] = (mark, costs(queries.home(), current.placed))
    seen: tuple[Any, Costs] | None = st.session_state.get("study:costs")
    if seen and seen[0] == mark:
        _show_cost(seen[1])


def _show_cost(cost: Costs) -> None:
    from engine.numbers import readable_bytes

    time, disk = cost.seconds, cost.disk_bytes
    with st.container(horizontal=True, gap="medium"):
        st.metric("Time, about", "not known" if time is None else duration(time), width="content")
        st.metric("Disk, at most", "not known" if disk is None else readable_bytes(int(disk)), width="content")
        st.metric("Shared captures", f"{cost.captures_there} of {cost.captures} there", width="content")
    if cost.based_on:
        st.caption(
            f"One cell of each target, mode, schedule and size was estimated ({cost.estimated}), scaled from run "
            f"{ui.text(cost.based_on)}; the others are taken to be alike."
        )
    for words in filter(None, (cost.unknown, *cost.notes)):
        st.caption(ui.text(words[0].upper() + words[1:]))


def _table(current: Study) -> pd.DataFrame:
    rows = [
        {"cell": one.cell.name, "state": one.state, **one.cell.labels, "run": one.run.id if one.run else ""}
        for one in current.placed
    ]
    return pd.DataFrame(rows)


def _begun() -> None:
    """The home's studies with their progress, and where their results are."""
    rows = overview(queries.home())
    st.markdown("**Studies begun here**")
    if not rows:
        st.caption("None yet. A study is a grid of runs that share captures; it can be stopped, resumed and extended.")
    for row in rows:
        with st.container(border=True):
            _known(row)


def _known(row: dict[str, Any]) -> None:
    name = row["study"]
    if row["problem"]:
        st.markdown(f"**{ui.text(name)}**")
        st.error(ui.text(row["problem"]), icon=":material/error:")
        return
    counts = [f"{row['done']} of {row['cells']} done"]
    counts += [f"{row['under_way']} under way"] if row["under_way"] else []
    counts += [f"{row['failed']} failed"] if row["failed"] else []
    st.progress(row["done"] / max(1, row["cells"]), text=f"**{ui.text(name)}**: {', '.join(counts)}")
    with st.container(horizontal=True):
        ui.goto("compare", "Compare", icon=":material/compare_arrows:", study=name)
        ui.goto("findings", "Findings", icon=":material/science:", study=name)
