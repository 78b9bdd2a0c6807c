"""A study over two prompt files, and queues that start nothing or a pretended engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.jobs import queue
from engine.paths import PROJECT_ROOT
from tests.unit.jobs.test_queue import FAKE_ENGINE
from tests.unit.study.studies import Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a study over two prompt files; keywords replace its sections."""

    def write(**changes: Any) -> Path:
        for name in ("a", "b", "held"):
            (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a?"}')
        base = {
            "prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 20},
            "train": {"batch_size": 4},
        }
        values = {"name": "s", "base": base, "axes": {"loss": ["forward_kl", "sft"]}, **changes}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path / "study.yaml"

    return write


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A queue whose jobs do what the run's notes say."""
    from tests.unit.jobs.test_queue import end_all

    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE_ENGINE.format(root=str(PROJECT_ROOT)), encoding="utf-8")
    monkeypatch.setattr(queue, "_ENGINE", (sys.executable, str(script)))
    yield
    end_all(tmp_path)


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "wake", lambda where: None)
