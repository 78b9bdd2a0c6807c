"""What happens before decoding is timed on a GPU: nothing is left to be recorded or compiled in a timed round."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from benchmarks.speed.decoding import Generate, OurLoop, _why_not, record_shapes
from benchmarks.speed.pairs import Rounds
from benchmarks.speed.subjects import TINY, random_subject
from engine.decode import runner as runner_module
from engine.decode import step_graphs
from engine.decode.slot_runner import SlotRunner


class OnGpu(OurLoop):
    """A loop that says of its target that it is on a GPU, except while it decodes."""

    def __call__(self, number: int) -> float:
        said, self.target = self.target, self.target.model
        try:
            return super().__call__(number)
        finally:
            self.target = said


def test_nothing_is_recorded_after_all_shapes_were(monkeypatch: pytest.MonkeyPatch):
    def recorded(model: Any, *, is_draft: bool = False, slots: int = 0) -> SlotRunner:
        return SlotRunner(model, is_draft=is_draft, slots=slots, recorded=True)

    monkeypatch.setattr(runner_module, "SlotRunner", recorded)
    made, record = [], step_graphs.StepGraphs._record
    monkeypatch.setattr(step_graphs.StepGraphs, "_record", lambda self, *of: made.append(of[0]) or record(self, *of))
    subject = random_subject(TINY, torch.device("cpu"), prompts=4, assisted=False)
    target = SimpleNamespace(device=torch.device("cuda"), model=subject.target.model)
    loops = [OnGpu(target, None, subject.prompts, 0, 4, rows) for rows in (1, 4)]
    record_shapes(loops, Rounds(3))
    assert made
    made.clear()
    for number in range(3):
        for loop in loops:
            loop(number)
    assert made == []


def test_a_compiler_that_fails_at_the_second_length_costs_its_own_way_alone():
    class Fails:
        def __call__(self, number: int) -> float:
            if number:
                raise RuntimeError("no compiler\nfor this")
            return 1.0

    assert "RuntimeError: no compiler for this" in _why_not(cast(Generate, Fails()))
