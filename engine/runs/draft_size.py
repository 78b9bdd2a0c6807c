"""How large a run's draft is: on disk, in trained weights, and in the time that its training took."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.config.lora import SHARED_FOLDER
from engine.errors import DraftbenchError
from engine.fileio import finite
from engine.records.provenance import DraftParameters, Provenance
from engine.records.training import Training
from engine.runs.folder import RunFolder

_WEIGHTS = "draft.safetensors"


@dataclass(frozen=True)
class DraftSize:
    """Sizes of the best draft of a run; None where nothing is known, such as of weights that are not here."""

    megabytes: float | None = None
    """Of its own file."""
    shared_megabytes: float | None = None
    """Of the shared draft that it is an adapter on, which is on disk once for all of them; None for any other draft."""
    trained_parameters: int | None = None
    total_parameters: int | None = None
    training_seconds: float | None = None
    """Of the optimiser steps, without evaluations."""

    def as_dict(self) -> dict[str, Any]:
        """As `draftbench compare --json` prints it."""
        sizes: dict[str, Any] = finite(asdict(self))
        return sizes


def draft_size(run: RunFolder) -> DraftSize:
    """The sizes of a run's draft."""
    parameters, seconds = DraftParameters(), math.nan
    with contextlib.suppress(DraftbenchError):
        parameters = Provenance.read_or_empty(run.path).draft_parameters or parameters
        seconds = Training.read_or_empty(run.path).seconds
    drafts = run.path / "draft"
    # before adapters all weights of a draft's own were trained, except embeddings that it did not share
    return DraftSize(
        _megabytes(drafts / "best" / _WEIGHTS),
        _megabytes(drafts / SHARED_FOLDER / _WEIGHTS),
        parameters.own if parameters.trained is None else parameters.trained,
        parameters.total,
        seconds if math.isfinite(seconds) else None,
    )


def _megabytes(file: Path) -> float | None:
    return file.stat().st_size / 1e6 if file.is_file() else None
