"""The findings of a home: its index brought up to date and read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from engine.findings.evaluate import Finding, evaluate
from engine.findings.pairing import DAMAGED, select
from engine.findings.pairs import Run
from engine.findings.sums import senseless
from engine.index import queries
from engine.index.connection import reading
from engine.index.ingest import add_details, ingest_all, remove_missing
from engine.paths import Home
from engine.records.provenance import Provenance
from engine.records.study_tag import of_study, studies_of


@dataclass(frozen=True)
class Evaluated:
    """All findings with the runs that took part (newest first) and how many did not, for which reason."""

    findings: list[Finding]
    runs: list[Run]
    runs_folder: Path
    left_out: Mapping[str, int]
    provenance: Mapping[str, Provenance]  # of each run that took part
    titles: Mapping[str, str]
    sums: pd.DataFrame  # per-prompt sums of all of them: see `engine.index.queries.prompt_sums`


def evaluate_home(home: Home, study: str | None = None, *, up_to_date: bool = False) -> Evaluated:
    """Every claim tested on the runs of a home, or of one study. `up_to_date`: the index was just ingested."""
    if not up_to_date:
        ingest_all(home)
        remove_missing(home)
    with reading(home.index) as con:
        frame = of_study(queries.studied(con), study)
    runs, left_out = select(frame)
    add_details(home, [run.id for run in runs])
    with reading(home.index) as con:
        sums = queries.prompt_sums(con, [run.id for run in runs])
    odd = senseless(sums)
    if odd:
        runs = [run for run in runs if run.id not in odd]
        sums = sums[~sums.run_id.isin(odd)]
        left_out = {**left_out, DAMAGED: left_out.get(DAMAGED, 0) + len(odd)}
    taken = {run.id for run in runs}
    rows = [row for row in frame.to_dict("records") if row["run_id"] in taken]
    return Evaluated(
        evaluate(runs, lambda run_ids: sums[sums.run_id.isin(run_ids)]),
        runs,
        home.runs,
        left_out,
        {str(row["run_id"]): row["provenance"] for row in rows},
        {str(row["run_id"]): row["title"] for row in rows if isinstance(row["title"], str) and row["title"]},
        sums,
    )


def measured_studies(home: Home) -> list[str]:
    """Names of the studies that any measured run of the index belongs to."""
    with reading(home.index) as con:
        return studies_of(queries.studied(con))
