"""How far a run is, and what is left of it, in words."""

from __future__ import annotations

from engine.records.status import PhaseProgress, Status
from engine.runs.process import now
from workbench.run.stage import stage
from workbench.run.training_curve import Now


def left(**known: object) -> str:
    progress = PhaseProgress.model_validate(
        {"phase": "capture", "done": 5, "total": 10, "unit": "prompts", "phase_s": 300.0, **known}
    )
    return stage(Status(state="running", progress=progress, updated_at=now()), Now()).left


def test_what_is_left_in_all_or_why_that_is_not_known():
    assert left(left_s=3600.0) == ", about 60 min left in all"
    assert left() == ", about 5 min left in this phase"
    why = "no earlier run here says how long the measurement takes"
    assert left(left_unknown=why) == f", about 5 min left in this phase; left in all: not known, {why}"
