"""Everything about one run that is not a table: what `draftbench show` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.records.provenance import Provenance
from engine.records.record import Record
from engine.records.slurm_job import SlurmJob
from engine.records.status import Status
from engine.records.summary import Summary
from engine.records.training import Training
from engine.records.values import encodable
from engine.runs.folder import RunFolder

_T = TypeVar("_T")


@dataclass(frozen=True)
class Description:
    """Everything about one run that is not a table. What is None is not there yet, or `problem` says what is wrong."""

    run: str
    folder: str
    status: Status
    recipe: Recipe | None
    training: Training | None
    provenance: Provenance | None
    summary: Summary | None
    problem: str
    slurm: SlurmJob | None = None

    def document(self) -> dict[str, Any]:
        """The JSON that `draftbench show --json` prints."""
        records = {
            key: record and record.document() for key, record in vars(self).items() if isinstance(record, Record)
        }
        return {**vars(self), "recipe": self.recipe and self.recipe.model_dump(mode="json"), **records}


def describe(run: RunFolder) -> Description:
    """One run, as far as its files can be read."""
    problems: list[str] = []

    def read(reader: Callable[[], _T]) -> _T | None:
        try:
            return reader()
        except DraftbenchError as error:
            problems.append(f"{error.what}: {error.fix}" if error.fix else error.what)
            return None

    return Description(
        run.id,
        encodable(str(run.path)),
        run.status(),
        recipe=read(run.recipe),
        training=read(lambda: Training.read(run.path)),
        provenance=read(lambda: Provenance.read(run.path)),
        summary=read(run.summary) if run.summary_path.exists() else None,
        slurm=read(lambda: SlurmJob.read(run.path)),
        problem="; ".join(problems),
    )


def whereabouts(status: Status, slurm: SlurmJob | None) -> str:
    """Where a run waits or is worked on, or was last, in words; empty for this machine."""
    parts = [f"at {status.place}"] if status.place else []
    if parts and slurm and slurm.job:
        parts.append(f"job {slurm.job}")
    if parts and status.state == "queued" and slurm and slurm.after:
        parts.append(f"after job {slurm.after}, which makes the captures")
    if parts and status.host and status.state in ("running", "interrupted"):
        parts.append(f"on {status.host}")
    return ", ".join(parts)
