"""Everything about one run that is not a table: what `draftbench show` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.records.provenance import Provenance
from engine.records.record import Record
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
        problem="; ".join(problems),
    )
