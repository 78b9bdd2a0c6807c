"""Where runs are sent: this machine's queue, unless another place is named."""

import pytest

from engine.errors import DraftbenchError
from engine.jobs import executors, queue


def test_this_machine_is_the_default():
    assert executors.chosen_place() is queue


def test_another_place_is_one_line(monkeypatch: pytest.MonkeyPatch):
    cluster = object()
    monkeypatch.setitem(executors.PLACES, "cluster", cluster)
    monkeypatch.setenv("DRAFTBENCH_PLACE", "cluster")
    assert executors.chosen_place() is cluster


def test_a_place_that_is_not_known_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DRAFTBENCH_PLACE", "locall")
    with pytest.raises(DraftbenchError, match="locall") as refused:
        executors.chosen_place()
    assert "local" in refused.value.fix
