"""What is averaged over temperatures says so, beside the effect at each."""

from __future__ import annotations

import pytest

from engine.findings.words import sentence
from tests.unit.findings.made_up_runs import Store


def measured_at(*temperatures: tuple[float, float]) -> Store:
    """White box and black box, black box at 0.4, white box at the given rate of each temperature."""
    store = Store()
    for temperature, rate in temperatures:
        store.add("kl", rate, temperature=temperature)
        store.add("sft", 0.4, temperature=temperature, **{"train.loss": "sft"})
    store.rows = store.rows[:2]
    return store


def test_two_temperatures_are_named_with_the_effect_at_each():
    finding = measured_at((0.0, 0.44), (1.0, 0.36)).findings()["white_box"]
    outcome = finding.headline
    assert outcome.pooled.temperatures == (0.0, 1.0)
    assert {t: one.temperatures for t, one in outcome.by_temperature.items()} == {0.0: (0.0,), 1.0: (1.0,)}
    assert outcome.by_temperature[0.0].relative.value == pytest.approx(0.10, abs=0.02)
    assert outcome.by_temperature[1.0].relative.value == pytest.approx(-0.10, abs=0.02)
    assert outcome.pooled.relative.value == pytest.approx(0, abs=0.02), "which the mean alone would hide"
    words = sentence(finding)
    assert "over 2 comparisons at T = 0 and 1 together (T = 0: +" in words
    assert "; T = 1: -" in words


def test_one_temperature_is_named_too():
    finding = measured_at((0.7, 0.44)).findings()["white_box"]
    assert " at T = 0.7;" in sentence(finding)
    assert "together" not in sentence(finding)
