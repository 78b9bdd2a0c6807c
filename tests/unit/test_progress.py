from __future__ import annotations

from typing import Any

import pytest

from engine import progress
from engine.progress import Clock, Progress

EXPECTED = {"capture": 60.0, "training": 100.0, "measurement": 40.0}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    time = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_what_is_left_is_of_the_whole_run(at: list[float]):
    clock = Clock(EXPECTED)
    assert clock.left("capture", 0.0, None) == 200
    at[0] += 20
    assert clock.left("capture", 0.5, 20.0) == 40 + 140
    at[0] += 100  # slower than expected: the phase's own pace says more
    assert clock.left("capture", 0.5, 90.0) == 90 + 140
    assert clock.left("train", 0.0, None) == 140
    assert clock.left("train", 0.25, 300.0) == 340
    assert clock.left("measure", 0.0, None) == 40
    at[0] += 30
    assert clock.left("certificate", 0.5, 2.0) == 10  # a phase of the same part
    at[0] += 30
    assert clock.left("certificate", 0.9, 2.0) == 2  # never less than the phase takes


def test_what_is_not_known_is_not_guessed():
    assert Clock({}).left("capture", 0.5, 10.0) is None
    assert Clock({"training": 1.0}).left("train", 0.5, 10.0) is None  # the measurement is to come
    assert Clock({"measurement": 7.0}).left("train", 0.5, 10.0) == 17  # the pace of training is its own
    assert Clock(EXPECTED).left("probe", 0.5, 10.0) is None


def test_why_it_is_not_known_is_reported_in_its_place():
    heard: list[dict[str, Any]] = []
    work = Progress(quiet=True, listen=heard.append)
    work.expect({"capture": 1.0})
    work.start("train", 10, "steps")
    assert heard[-1]["left_unknown"] == "no earlier run here says how long the training and the measurement takes"
    assert "left_s" not in heard[-1]
    work.expect({}, "runs there are not estimated")
    work.advance()
    assert heard[-1]["left_unknown"] == "runs there are not estimated"
    work.expect(EXPECTED)
    work.advance()
    assert "left_unknown" not in heard[-1]


def test_progress_reports_it_beside_the_phase(at: list[float]):
    heard: list[dict[str, Any]] = []
    work = Progress(quiet=True, listen=heard.append)
    work.start("capture", 4, "prompts")
    assert "left_s" not in heard[-1]
    work.expect(EXPECTED)
    work.start("train", 10, "steps", done=4)  # resumed: those four say nothing about the pace
    at[0] += 8
    work.advance(2)
    assert heard[-1]["left_s"] == 4 * 4 + 40
