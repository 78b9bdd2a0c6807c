"""What is done with selected runs is done with these, also from a page that was drawn before some were removed."""

from __future__ import annotations

import pytest

from engine.errors import DraftbenchError
from engine.paths import home
from engine.runs.folder import RunFolder
from tests.unit.runs.test_damaged import make
from workbench.runs import selection


def named(name: str) -> RunFolder:
    return RunFolder(make().path.rename(home().runs / name))


def test_a_second_removal_takes_no_run_that_begins_alike():
    run, other = named("run-1"), named("run-12")
    assert selection.remove([run.id])
    with pytest.raises(DraftbenchError, match="0 of 1 runs were removed, not run-1"):
        selection.remove([run.id])
    with pytest.raises(DraftbenchError, match="no run 'run-1' any more"):
        selection.archive([run.id])
    assert other.path.is_dir()
    assert not (other.path / "labels.json").exists()
