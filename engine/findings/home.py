"""The findings of a home: worked out once for each state of its runs, and kept.

What a page or a command shows at first is in the kept result. The runs themselves are read from the index when
somebody asks for them (`HomeFindings.runs`), and the sums per prompt only where something is worked out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from pydantic import TypeAdapter

from engine.findings.claims import CLAIMS
from engine.findings.evaluate import Finding, Outcome, evaluate
from engine.findings.kept import Kept, kept_of
from engine.findings.missing import Wanted, wanted
from engine.findings.pooling import impossible
from engine.findings.runs import DAMAGED, Run, select
from engine.index import queries
from engine.index.connection import reading
from engine.index.ingest import add_details, ingest_all
from engine.paths import Home
from engine.records.provenance import Provenance
from engine.records.study_tag import of_study, studies_of
from engine.runs.samples import laid_out


@dataclass(frozen=True)
class TakingPart:
    """The runs that take part in findings, newest first, and where each comes from."""

    runs: list[Run]
    left_out: Mapping[str, int]  # reason -> how many runs
    provenance: Mapping[str, Provenance]
    titles: Mapping[str, str]

    @classmethod
    def of(cls, frame: pd.DataFrame, damaged: frozenset[str] = frozenset()) -> TakingPart:
        """`frame`: as `queries.studied`; `damaged`: runs whose sums no measurement has."""
        selected, left_out = select(frame)
        runs = [run for run in selected if run.id not in damaged]
        ids = {run.id for run in runs}
        rows = [row for row in frame.to_dict("records") if row["run_id"] in ids]
        return cls(
            runs,
            {**left_out, DAMAGED: left_out.get(DAMAGED, 0) + len(damaged)} if damaged else left_out,
            {str(row["run_id"]): row["provenance"] for row in rows},
            {str(row["run_id"]): row["title"] for row in rows if isinstance(row["title"], str) and row["title"]},
        )


@dataclass(frozen=True)
class HomeFindings:
    """All findings, how many runs took part and how many did not, for which reason."""

    findings: list[Finding]
    wanted: Mapping[str, Wanted]  # claim -> what would decide it
    n_runs: int
    n_samples: int  # of them: those that come with Draftbench
    left_out: Mapping[str, int]
    load: Callable[[], TakingPart]
    load_sums: Callable[[list[str]], pd.DataFrame]
    kept: Kept | None = None  # where what is worked out of the same runs can be kept too

    @cached_property
    def taking_part(self) -> TakingPart:
        return self.load()

    @property
    def runs(self) -> list[Run]:
        """The runs that took part, newest first; read from the index at the first use."""
        return self.taking_part.runs

    @property
    def sums(self) -> pd.DataFrame:
        """Sums per prompt of all of them: see `engine.index.queries.prompt_sums`."""
        return self.load_sums([run.id for run in self.runs])


@dataclass(frozen=True)
class _Result:
    """What is kept. Claims are named by their keys."""

    outcomes: Mapping[str, tuple[Outcome, ...]]
    wanted: Mapping[str, Wanted]
    n_runs: int
    n_samples: int
    left_out: Mapping[str, int]
    damaged: frozenset[str]


_RESULT = TypeAdapter(_Result)


def evaluate_home(home: Home, study: str | None = None, *, up_to_date: bool = False) -> HomeFindings:
    """Every claim tested on the runs of a home, or of one study. `up_to_date`: the index was just ingested."""
    if not up_to_date:
        ingest_all(home)
    with reading(home.index) as con:
        kept = kept_of(con, home, study)
    result = kept.get("findings", _RESULT, lambda: _worked_out(home, study))
    return HomeFindings(
        [Finding(CLAIMS[key], outcomes) for key, outcomes in result.outcomes.items()],
        result.wanted,
        result.n_runs,
        result.n_samples,
        result.left_out,
        lambda: TakingPart.of(_studied(home, study), result.damaged),
        lambda run_ids: _sums(home, run_ids),
        kept,
    )


def _worked_out(home: Home, study: str | None) -> _Result:
    frame = _studied(home, study)
    sums = _sums(home, [run.id for run in select(frame)[0]])
    damaged = frozenset(impossible(sums))
    part = TakingPart.of(frame, damaged)
    findings = evaluate(part.runs, lambda run_ids: sums[sums.run_id.isin(run_ids)])
    return _Result(
        {finding.claim.key: finding.outcomes for finding in findings},
        {finding.claim.key: wanted(finding, part.runs, home.runs) for finding in findings},
        len(part.runs),
        len(laid_out(home) & {run.id for run in part.runs}),
        part.left_out,
        damaged,
    )


def _studied(home: Home, study: str | None) -> pd.DataFrame:
    with reading(home.index) as con:
        return of_study(queries.studied(con), study)


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
