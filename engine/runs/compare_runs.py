"""Two runs compared by what their folders hold: the document that `draftbench compare` prints."""

from __future__ import annotations

import contextlib
from typing import Any

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.measure.compare import (
    Measurement,
    agreement_by_temperature,
    comparability,
    compare,
    differing_conditions,
    not_measured,
    nothing_in_common,
)
from engine.measure.statistics import SAMPLES
from engine.records.provenance import Provenance
from engine.records.training import Training
from engine.runs.draft_size import draft_size
from engine.runs.folder import RunFolder
from engine.runs.trained_alike import unequal_text


def measurement_of(run: RunFolder, bootstrap_samples: int | None = None) -> Measurement:
    """The run's measurement, ready to be compared; `bootstrap_samples` as in its recipe unless given.

    Raises DraftbenchError if a part of it is missing or damaged.
    """
    if bootstrap_samples is None:
        bootstrap_samples = SAMPLES
        with contextlib.suppress(DraftbenchError):  # a run whose recipe is damaged can be compared all the same
            bootstrap_samples = run.recipe().measure.bootstrap_samples
    return Measurement.read(run.path / "measure", run.summary().conditions, bootstrap_samples)


def _trained(run: RunFolder) -> tuple[Provenance, Training]:
    return Provenance.read_or_empty(run.path), Training.read_or_empty(run.path)


def compare_runs(a: RunFolder, b: RunFolder) -> dict[str, Any]:
    """Run b less run a, paired on the same target text: every rate and temperature, and greedy agreement by token.

    `differs`: conditions that differ, each with both values; `sizes`: of both drafts, as `draft_size`; `not_measured`:
    rates that either side lacks; `unequal_training`: other amounts of text in trainings that look alike;
    `comparability`: whether all, some or none of the rates may be compared, which, and why not the others; `servers`:
    which rate each server's own figure comes from. Raises DraftbenchError if no answer is common.
    """
    side_a, side_b = measurement_of(a), measurement_of(b)
    rows = compare(side_a, side_b)
    if not rows:
        raise nothing_in_common()
    return {
        "a": a.id,
        "b": b.id,
        "differs": {
            key: list(values) for key, values in differing_conditions(side_a.conditions, side_b.conditions).items()
        },
        "comparability": comparability((row.metric, row.reason or "") for row in rows).as_dict(),
        "unequal_training": unequal_text({"A": _trained(a), "B": _trained(b)}),
        "sizes": {"a": draft_size(a).as_dict(), "b": draft_size(b).as_dict()},
        "rows": [row.as_dict() for row in rows],
        "not_measured": {"A": not_measured(side_a.prompts), "B": not_measured(side_b.prompts)},
        "servers": {server.name: {"figure": server.acceptance, "rate": server.reports} for server in SERVERS.values()},
        "greedy_agreement": agreement_by_temperature(a.path / "measure", b.path / "measure"),
    }
