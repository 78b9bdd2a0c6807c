"""The Launch page without a worker, and with one tiny recipe on offer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engine.jobs import queue
from workbench.launch import starting
from workbench.shared import queries


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are queued, and nobody works on them."""
    woken: list[str] = []
    monkeypatch.setattr(queue, "wake", lambda where: woken.append(str(where.root)))
    monkeypatch.setattr(queries, "wake_all", lambda where: None)
    return woken


@pytest.fixture
def tiny(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recipes on offer are the tiny one, under the name of the first."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    values = yaml.safe_load(recipe.read_text())
    for name in ("train", "heldout"):
        values["prompts"][name] = str(recipe.with_name(f"{name}.jsonl"))
    (folder / "quickstart.yaml").write_text("# A <b>tiny</b> one.\n" + yaml.safe_dump(values))
    monkeypatch.setattr(starting, "RECIPES", folder)
