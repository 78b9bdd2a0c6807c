"""What the driver writes into a run's folder: that a node took it, lost it, or ended without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from engine.cluster.capture_order import capture_keys
from engine.cluster.ray_job import Job, actor_options
from engine.config.reading import parse_recipe
from engine.jobs.queue import is_held
from engine.paths import Home
from engine.records.status import StopNote
from engine.runs.folder import RunFolder
from engine.runs.process import now

RECIPE = parse_recipe(
    {
        "prompts": {"train": "a.jsonl", "heldout": "b.jsonl"},
        "resources": {"gpus": 0.5, "cpus": 4, "memory_gb": 24, "minutes": 9},
    }
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run that a node with a home of its own is about to take."""
    run = RunFolder.create(Home(tmp_path), RECIPE, queued_at=now(), place="ray://head:1")
    return Job(Home(tmp_path), run, RECIPE, capture_keys(RECIPE), None, None, node="n1", shared=False)


def test_a_claimed_run_is_at_work_on_the_node_and_locked_here(job: Job):
    assert job.claim()
    status = job.run.status()
    assert (status.state, status.host, status.place) == ("running", "n1", "ray://head:1")
    assert is_held(job.run.path / ".lock")
    log = (job.run.path / "log.txt").read_text()
    assert "n1, which works in a home of its own: 4 cores, 0.5 cards" in log
    assert "resources.minutes 9 is left unread" in log
    job.release()
    assert not is_held(job.run.path / ".lock")


def test_a_run_that_was_cancelled_or_is_worked_on_is_not_claimed(job: Job):
    with FileLock(job.run.path / ".lock"):
        assert not job.claim()
    job.run.set_status(state="cancelled")
    assert not job.claim()


def test_a_lost_run_waits_again_at_its_old_place(job: Job):
    before = job.run.status().queued_at
    job.claim()
    job.wait_again("node n1 was lost")
    assert (job.run.status().state, job.run.status().queued_at) == ("queued", before)


def test_a_lost_run_that_was_asked_to_stop_is_cancelled(job: Job):
    job.claim()
    StopNote(asked_at=now()).write(job.run.path)
    job.wait_again("node n1 was lost")
    assert job.run.status().state == "cancelled"
    assert not (job.run.path / StopNote.FILE).exists()


def test_a_process_that_ended_without_a_word_has_failed(job: Job):
    job.claim()
    job.settle(-9, "Killed")
    error = job.run.status().error
    assert error is not None
    assert "n1 ended with signal 9" in error.what
    assert error.why == "Killed"


def test_what_a_process_said_of_its_end_stays(job: Job):
    job.claim()
    job.run.set_status(state="done")
    job.settle(0, "")
    assert job.run.status().state == "done"


def test_ray_is_asked_for_the_recipes_resources_away_from_nodes_that_refused():
    assert actor_options(RECIPE, {"bb", "aa"}) == {
        "max_restarts": 0,
        "max_concurrency": 1,
        "memory": 24_000_000_000,
        "label_selector": {"ray.io/node-id": "!in(aa, bb)"},
        "num_cpus": 4,
        "num_gpus": 0.5,
    }
