"""A tiny target whose answers end at different lengths, and captures of them, made once for each test file."""

from __future__ import annotations

from typing import Any

import pytest

from engine.capture.store import Capture
from engine.models.load import LoadedModel
from tests.tiny_pair import captured, stopping_target
from tests.unit.distill.trainings import fingerprint, trainer_in


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    return stopping_target()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel) -> Capture:
    """Answers with the exact signal."""
    return captured(tmp_path_factory.mktemp("shared"), target)


@pytest.fixture(scope="module")
def compact_capture(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel) -> Capture:
    """Answers with the 16 likeliest tokens of each position."""
    return captured(tmp_path_factory.mktemp("compact"), target, signal="compact", signal_top_k=16)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel, capture: Capture) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unbroken")
    return fingerprint(folder, trainer_in(folder, target, capture).run())
