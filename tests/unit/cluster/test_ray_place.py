"""Ray as a place, as far as it goes without a cluster: addresses, the queue, and what a cancel leaves for the driver.

tests/slow/test_ray_study.py has the cluster.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from engine.cluster.ray_connection import check_reachable, full_address
from engine.cluster.ray_place import RayPlace, home_token, place
from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.jobs.executors import place_of, wake_all
from engine.jobs.queue import waiting
from engine.paths import Home
from engine.records.status import StopNote
from engine.runs.folder import run_folders

SAMPLE = "sample_data/prompts/general/heldout.jsonl"  # prompts are read before there is a run
PROMPTS = {"train": SAMPLE, "heldout": SAMPLE}

pytest.importorskip("ray")

RECIPE = parse_recipe({"prompts": PROMPTS})


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def at_work(tmp_path: Path, listening: int) -> Iterator[tuple[Home, RayPlace]]:
    """A home and a place whose driver lives, so that nobody starts one."""
    home, here = Home(tmp_path / "home"), RayPlace(f"ray://127.0.0.1:{listening}")
    here.folder(home).mkdir(parents=True)
    with FileLock(here.lock(home)):
        yield home, here


@pytest.mark.parametrize(
    ("address", "variable", "full"),
    [
        ("ray", "", "ray"),
        ("ray", "auto", "ray"),
        ("ray", "head:6379", "ray-gcs://head:6379"),
        ("ray", "ray://head:10001", "ray://head:10001"),
        ("ray://head:10001", "other:6379", "ray://head:10001"),
        ("ray-gcs://[::1]:6379", "", "ray-gcs://[::1]:6379"),
    ],
)
def test_an_address_means_the_same_to_all_who_read_it(address: str, variable: str, full: str):
    assert full_address(address, {"RAY_ADDRESS": variable}) == full


@pytest.mark.parametrize(
    "address", ["ray://", "ray://head", "ray://head:port", "ray://:1", "ray-gcs", "ray-gcs://head:99999"]
)
def test_an_address_that_is_none_is_refused(address: str):
    with pytest.raises(DraftbenchError, match="not the address"):
        place(address)


@pytest.mark.parametrize("variable", ["http://head:8265", "ray-gcs://head:6379", "ray://head", "head"])
def test_a_variable_that_names_no_cluster_is_refused(variable: str):
    with pytest.raises(DraftbenchError, match=f"RAY_ADDRESS is '{variable}'"):
        full_address("ray", {"RAY_ADDRESS": variable})


def test_a_cluster_that_does_not_answer_is_refused_before_anything_is_queued(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DraftbenchError, match="nothing answers"):
        place(f"ray://127.0.0.1:{port}").submit_all(Home(tmp_path), [RECIPE])
    assert run_folders(Home(tmp_path)) == []


def test_a_cluster_that_answers_is_reachable(listening: int):
    check_reachable(f"ray://127.0.0.1:{listening}")


def test_a_submitted_run_waits_there_and_not_in_the_local_queue(at_work: tuple[Home, RayPlace]):
    home, here = at_work
    (run,) = here.submit_all(home, [RECIPE])
    assert waiting(home) == []
    assert [one.id for one in waiting(home, here.address)] == [run.id]
    assert place_of(run) == here
    wake_all(home)  # the driver lives: nothing is started


def test_a_card_must_be_asked_for(at_work: tuple[Home, RayPlace]):
    home, here = at_work
    recipe = RECIPE.model_copy(update={"target": RECIPE.target.model_copy(update={"device": "cuda"})})
    with pytest.raises(DraftbenchError, match=r"resources\.gpus is 0"):
        here.submit_all(home, [recipe])


def test_a_waiting_run_is_taken_out_and_resumed(at_work: tuple[Home, RayPlace]):
    home, here = at_work
    (run,) = here.submit_all(home, [RECIPE])
    assert "taken out" in here.cancel(home, run)
    assert run.status().state == "cancelled"
    here.resume(home, run)
    assert [one.id for one in waiting(home, here.address)] == [run.id]


def test_the_note_to_stop_is_for_the_driver_and_says_when_it_was_asked_twice(at_work: tuple[Home, RayPlace]):
    home, here = at_work
    (run,) = here.submit_all(home, [RECIPE])
    run.set_status(state="running", pid=4242, pid_started=1.0, host="another-machine")
    assert "another-machine" in here.cancel(home, run)
    assert (StopNote.read_or_empty(run.path).at_once, run.status().stop_asked_at is not None) == (False, True)
    assert "at once" in here.cancel(home, run)
    assert StopNote.read_or_empty(run.path).at_once


def test_a_finished_run_cannot_be_cancelled(at_work: tuple[Home, RayPlace]):
    home, here = at_work
    (run,) = here.submit_all(home, [RECIPE])
    run.set_status(state="done")
    with pytest.raises(DraftbenchError, match="only a running run"):
        here.cancel(home, run)


def test_the_token_of_a_home_is_its_own(tmp_path: Path):
    first = home_token(Home(tmp_path / "a"))
    assert first == home_token(Home(tmp_path / "a"))
    assert first != home_token(Home(tmp_path / "b"))
