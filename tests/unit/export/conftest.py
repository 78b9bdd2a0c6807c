"""What tests of exports share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.paths import home
from engine.runs.folder import RunFolder
from tests.unit.conftest import Draftbench


@pytest.fixture
def run(finished_home: Path) -> RunFolder:
    return RunFolder.open(home(), "latest")


def export(draftbench: Draftbench, folder: Path, *more: str) -> Any:
    """The report of an export of the latest run."""
    result = draftbench("export", "latest", "--out", str(folder), "--json", *more)
    assert result.code == 0, result.err
    return result.json()
