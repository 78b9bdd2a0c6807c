"""Where runs are sent: this machine's queue, unless another place is named."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.jobs import executors, queue
from engine.paths import Home
from engine.runs.folder import RunFolder

RECIPE = parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place whose address is kept, as a module would be that loads a cluster's library."""
    module = ModuleType("cluster_place")
    module.place = lambda address: SimpleNamespace(address=address)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cluster_place", module)
    monkeypatch.setitem(executors.PLACES, "cluster", "cluster_place")


def test_this_machine_is_the_default():
    assert executors.chosen_place() is queue


def test_another_place_is_one_line(cluster: None, monkeypatch: pytest.MonkeyPatch):
    assert executors.chosen_place("cluster://here:1").address == "cluster://here:1"  # type: ignore[attr-defined]
    monkeypatch.setenv("DRAFTBENCH_PLACE", "cluster")
    assert executors.chosen_place().address == "cluster"  # type: ignore[attr-defined]
    assert executors.chosen_place("local") is queue


def test_a_run_belongs_to_the_place_that_it_was_sent_to(cluster: None, tmp_path: Path):
    run = RunFolder.create(Home(tmp_path), RECIPE)
    assert executors.place_of(run) is queue
    run.set_status(place="cluster://here:1")
    assert executors.place_of(run).address == "cluster://here:1"  # type: ignore[attr-defined]


def test_the_queue_leaves_what_waits_elsewhere(tmp_path: Path):
    home = Home(tmp_path)
    RunFolder.create(home, RECIPE, queued_at="2026-01-01T00:00:00+00:00", place="cluster")
    assert queue.waiting(home) == []


@pytest.mark.parametrize("address", ["locall", "local://somewhere", "://", ""])
def test_a_place_that_is_not_known_is_refused_with_the_known_ones(address: str):
    with pytest.raises(DraftbenchError, match=address or "''") as refused:
        executors.place_at(address)
    assert "local" in refused.value.fix
