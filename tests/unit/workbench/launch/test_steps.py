"""What the page says that a run will do, before it does it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config.reading import parse_recipe, with_settings
from workbench.launch.steps_view import steps

SERVED = {"capture.server": {"base_url": "http://far:1/v1", "model": "big", "logprobs": 5}, "capture.signal": "compact"}
ALONE = {"task": "measure", "draft.init": "none", "prompts.train": []}
WITH_DRAFT = {**ALONE, "draft.init": "checkpoint", "draft.checkpoint": "some-draft"}
CLOCKED = {**ALONE, "measure.against": "server", "capture.server": {"base_url": "http://far:1/v1", "model": "big"}}


def said(settings: dict[str, Any]) -> str:
    return " ".join(steps([parse_recipe(with_settings({"prompts": {"train": "a", "heldout": "b"}}, settings))]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "Acceptance, speed and losslessness are measured on the held-out prompts at temperature 0, 1."),
        ({"measure.speed_prompts": 0}, "Acceptance and losslessness are measured"),
        (SERVED, "the target here answers the held-out ones."),
        ({**SERVED, "measure.against": "server"}, "it answers the held-out ones too"),
        ({**SERVED, "measure.against": "server"}, "Acceptance alone is measured"),
        (ALONE, "The target is measured as it is: nothing is trained."),
        (WITH_DRAFT, "The draft is measured as it is: nothing is trained."),
        (CLOCKED, "big at far answers the held-out prompts, and how fast it does is measured."),
    ],
)
def test_the_steps_are_those_of_the_recipe(settings: dict[str, Any], sentence: str):
    assert sentence in said(settings)


@pytest.mark.parametrize("settings", [ALONE, WITH_DRAFT, CLOCKED])
def test_a_run_that_only_measures_is_not_said_to_train(settings: dict[str, Any]):
    assert "learns" not in said(settings)
    assert "training prompts" not in said(settings)
