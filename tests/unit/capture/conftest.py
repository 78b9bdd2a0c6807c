"""What tests of captures share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.capture import generate


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the prompts that were really put to the target, in order of finishing."""
    names: list[str] = []
    real = generate.answer_prompts

    def spy(model: Any, prompts: Any, ids: list[str], *more: Any, **settings: Any) -> Iterator[Any]:
        for answer in real(model, prompts, ids, *more, **settings):
            names.append(ids[answer.index])
            yield answer

    monkeypatch.setattr(generate, "answer_prompts", spy)
    return names
