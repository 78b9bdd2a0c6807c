"""The findings of a home: its index brought up to date and read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from engine.findings.evaluate import Finding, evaluate
from engine.findings.pooling import impossible
from engine.findings.runs import DAMAGED, Run, select
from engine.index import queries
from engine.index.connection import reading
from engine.index.ingest import add_details, ingest_all, remove_missing
from engine.paths import Home
from engine.records.provenance import Provenance
from engine.records.study_tag import of_study, studies_of


@dataclass(frozen=True)
class HomeFindings:
    """All findings with the runs that took part (newest first) and how many did not, for which reason."""

    findings: list[Finding]
    runs: list[Run]
    runs_folder: Path
    left_out: Mapping[str, int]
    provenance: Mapping[str, Provenance]  # of each run that took part
    titles: Mapping[str, str]
    sums: pd.DataFrame  # per-prompt sums of all of them: see `engine.index.queries.prompt_sums`


def evaluate_home(home: Home, study: str | None = None, *, up_to_date: bool = False) -> HomeFindings:
    """Every claim tested on the runs of a home, or of one study. `up_to_date`: the index was just ingested."""
    if not up_to_date:
        ingest_all(home)
        remove_missing(home)
    with reading(home.index) as con:
        frame = of_study(queries.studied(con), study)
    runs, left_out = select(frame)
    sums = _sums(home, [run.id for run in runs])
    damaged = impossible(sums)
    if damaged:
        runs = [run for run in runs if run.id not in damaged]
        sums = sums[~sums.run_id.isin(damaged)]
        left_out = {**left_out, DAMAGED: left_out.get(DAMAGED, 0) + len(damaged)}
    ids = {run.id for run in runs}
    rows = [row for row in frame.to_dict("records") if row["run_id"] in ids]
    return HomeFindings(
        evaluate(runs, lambda run_ids: sums[sums.run_id.isin(run_ids)]),
        runs,
        home.runs,
        left_out,
        {str(row["run_id"]): row["provenance"] for row in rows},
        {str(row["run_id"]): row["title"] for row in rows if isinstance(row["title"], str) and row["title"]},
        sums,
    )


def _sums(home: Home, run_ids: list[str]) -> pd.DataFrame:
    """The per-prompt sums of the runs. Only for measurements of earlier versions the tokens are read, for `answer`."""
    for _ in range(2):
        with reading(home.index) as con:
            sums = queries.prompt_sums(con, run_ids)
        unknown = [str(run_id) for run_id in sums.run_id[sums.answer.isna()].unique()]
        if not unknown:
            break
        add_details(home, unknown)
    return sums


def measured_studies(home: Home) -> list[str]:
    """Names of the studies that any measured run of the index belongs to."""
    with reading(home.index) as con:
        return studies_of(queries.studied(con))
