"""Shards that nodes fill: what a worker sends becomes the shard at home, whatever comes twice, broken or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from engine.capture.plan import CapturePlan, plan_capture
from engine.capture.shards import make_in_shards, shards_of
from engine.capture.store import make_capture
from engine.cluster import shard_worker
from engine.cluster.node import own_build
from engine.cluster.shard_conductor import _places, _rate_shared_out
from engine.cluster.shard_worker import CLOSING, ShardWorker, Task
from engine.cluster.shards_on_ray import Coming, Tally, connected, task_of
from engine.cluster.shared_home import home_token, node_folder, sees_home
from engine.config.reading import parse_recipe
from engine.config.schema import ModelSpec, Recipe
from engine.errors import DraftbenchError
from engine.models.load import LoadedModel, load_model
from engine.paths import Home
from tests.tiny_pair import questions


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def recipe(tiny_target_folder: Path) -> Recipe:
    return parse_recipe(
        {
            "target": {"model": str(tiny_target_folder), "dtype": "float32", "device": "cpu"},
            "prompts": {"train": "pack:biology/curated", "heldout": "pack:biology/curated-heldout"},
            "capture": {"max_new_tokens": 10, "batch_size": 1},
        }
    )


@pytest.fixture
def target(recipe: Recipe) -> LoadedModel:
    return load_model(recipe.target)


@pytest.fixture
def plan(home: Home, recipe: Recipe, target: LoadedModel) -> CapturePlan:
    return plan_capture(home.captures, target, questions(), recipe.capture)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a node that works in a home of its own."""
    monkeypatch.setenv("DRAFTBENCH_NODE_HOME", str(tmp_path / "node"))
    return tmp_path / "node"


def order_of(home: Home, recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump(mode="json")
    return {"recipe": values, "home": str(home.root), "token": home_token(home), "build": own_build()}


def rows_of(worker: ShardWorker, number: int, task: Task) -> list[dict[str, Any]]:
    return [row for table in worker.work(number, task) for row in table.to_pylist()]


def tasks_of(shards: list[CapturePlan]) -> list[Task]:
    return [task for shard in shards if (task := task_of(shard)) is not None]


def same_as_alone(plan: CapturePlan, tmp_path: Path, recipe: Recipe, target: LoadedModel) -> bool:
    alone = plan_capture(tmp_path / "alone", target, questions(), recipe.capture)
    make_capture(alone, target, batch_size=1)
    names = ("answers.jsonl", "signal.bin", "spec.json")
    return all((plan.folder / name).read_bytes() == (alone.folder / name).read_bytes() for name in names)


@pytest.mark.slow
def test_rows_of_nodes_with_homes_of_their_own_become_the_capture(
    tmp_path: Path,
    home: Home,
    recipe: Recipe,
    target: LoadedModel,
    plan: CapturePlan,
    apart: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(shard_worker, "_BATCH_BYTES", 1000)  # an answer or two
    worker = ShardWorker(order_of(home, recipe))

    def fill_all(shards: Any) -> None:
        coming = Coming(shards)
        for number, task in enumerate(tasks_of(shards)):
            rows = rows_of(worker, number, task)
            assert coming.keep(rows[:2]) == []
            assert coming.keep(rows) == []  # some come twice
        coming.close()

    capture = make_in_shards(plan, 2, fill_all)
    assert same_as_alone(plan, tmp_path, recipe, target)
    assert capture.counts.last_session.tokens == capture.tokens  # as the nodes counted
    assert list(apart.rglob("answers.jsonl")) == []  # nothing is left on the node


@pytest.mark.slow
def test_a_node_that_sees_the_home_fills_the_shard_in_it(
    tmp_path: Path, home: Home, recipe: Recipe, target: LoadedModel, plan: CapturePlan
):
    worker = ShardWorker(order_of(home, recipe))

    def fill_all(shards: Any) -> None:
        for number, task in enumerate(tasks_of(shards)):
            for _ in range(2):  # Ray may do a task twice
                assert rows_of(worker, number, task) == [
                    {"shard": number, "index": CLOSING, "line": "", "signal": b"", "error": ""}
                ]
        assert Coming(shards).keep(rows_of(worker, 0, Task(shards[0], [0]))) == []

    make_in_shards(plan, 3, fill_all)
    assert same_as_alone(plan, tmp_path, recipe, target)


def broken(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "signal": row["signal"][:-1] + bytes([row["signal"][-1] ^ 1])}


@pytest.mark.slow
def test_what_is_lost_or_broken_on_the_way_is_asked_for_again_and_only_that(
    tmp_path: Path, home: Home, recipe: Recipe, target: LoadedModel, plan: CapturePlan, apart: Path
):
    worker, shards = ShardWorker(order_of(home, recipe)), shards_of(plan, 2)
    first, second = tasks_of(shards)
    rows = rows_of(worker, 0, first)
    coming = Coming(shards)
    coming.keep([rows[0], broken(rows[1]), rows[3]])  # rows[2] is lost; the closing row comes
    coming.close()
    again, same = tasks_of(shards)
    assert (again.missing, same.missing) == ([1, 2], second.missing)
    coming = Coming(shards)
    coming.keep([*rows_of(worker, 0, again), *rows_of(worker, 1, same)])
    assert tasks_of(shards) == []
    make_in_shards(plan, 2, lambda left: pytest.fail("nothing is left") if left else None)
    assert same_as_alone(plan, tmp_path, recipe, target)


def test_answers_that_the_home_has_already_are_not_asked_of_the_cluster(
    home: Home, recipe: Recipe, target: LoadedModel, plan: CapturePlan
):
    make_capture(plan_capture(home.captures, target, questions(4), recipe.capture), target, batch_size=1)
    (task,) = tasks_of(shards_of(plan, 2))
    assert task.shard.folder.name == "2-of-2"
    assert task.missing == [1, 2]


def test_a_shard_that_another_process_fills_gets_no_rows(home: Home, recipe: Recipe, plan: CapturePlan, apart: Path):
    shards = shards_of(plan, 2)
    rows = rows_of(ShardWorker(order_of(home, recipe)), 0, tasks_of(shards)[0])
    with FileLock(shards[0].folder / ".lock"):
        assert Coming(shards).keep(rows) == []
        assert task_of(shards[0]) == Task(shards[0], [0, 1, 2])
    assert not (shards[0].folder / "answers.jsonl").exists()


def other_build(order: dict[str, Any], folder: Path) -> None:
    order["build"] = {**order["build"], "torch": "1.0"}


def no_target(order: dict[str, Any], folder: Path) -> None:
    order["recipe"]["target"]["model"] = str(folder / "nothing")


def other_dtype(order: dict[str, Any], folder: Path) -> None:
    order["recipe"]["target"]["dtype"] = "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"), [(other_build, "another build"), (no_target, "nothing"), (other_dtype, "dtype of")]
)
def test_a_node_that_would_answer_otherwise_says_why_and_answers_nothing(
    tmp_path: Path,
    home: Home,
    recipe: Recipe,
    plan: CapturePlan,
    change: Callable[[dict[str, Any], Path], None],
    words: str,
):
    order = order_of(home, recipe)
    change(order, tmp_path)
    (task, *_) = tasks_of(shards_of(plan, 2))
    (row,) = rows_of(ShardWorker(order), 0, task)
    assert words in json.loads(row["error"])["what"]
    assert Coming([task.shard]).keep([row]) == [json.loads(row["error"])]
    assert not (task.shard.folder / "answers.jsonl").exists()


def test_a_home_is_known_by_its_token(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    token = home_token(home)
    assert home_token(home) == token
    assert sees_home(home.root, token)
    assert not sees_home(home.root, home_token(Home(tmp_path / "other")))
    assert not sees_home(tmp_path / "none", token)
    monkeypatch.setenv("DRAFTBENCH_NODE_HOME", str(tmp_path / "node"))
    assert not sees_home(home.root, token)
    assert node_folder(token).parent == tmp_path / "node"
    assert node_folder(token).stat().st_mode & 0o777 == 0o700


def test_workers_are_as_many_as_the_nodes_hold():
    nodes = [{"CPU": 8.0, "GPU": 2.0, "memory": 32e9}, {"CPU": 3.0, "memory": 64e9}, {}]
    assert _places(nodes, {"num_cpus": 2}) == 5
    assert _places(nodes, {"num_cpus": 2, "num_gpus": 1.0}) == 2
    assert _places(nodes, {"num_cpus": 1, "num_gpus": 0.5}) == 4
    assert _places(nodes, {"num_cpus": 1, "memory": int(20e9)}) == 4
    assert _places(nodes, {"num_cpus": 16}) == 0


def test_the_requests_per_minute_to_a_server_are_shared_out(recipe: Recipe):
    server = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "requests_per_minute": 100}
    values = {**recipe.model_dump(mode="json"), "train": {"loss": "sft"}}
    values["capture"] = {"signal": "none", "server": server}
    shared = _rate_shared_out(parse_recipe(values), 8).capture.server
    assert shared is not None
    assert shared.requests_per_minute == 12
    assert _rate_shared_out(recipe, 8) == recipe


def test_answers_are_counted_as_files_grow(tmp_path: Path):
    tally = Tally([tmp_path / "a", tmp_path / "b"])
    assert tally.count() == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "answers.jsonl").write_bytes(b"{}\n{}\n{")
    assert tally.count() == 2
    with open(tmp_path / "a" / "answers.jsonl", "ab") as file:
        file.write(b"}\n")
    assert tally.count() == 3


def test_another_place_than_ray_is_refused_with_the_way_to_do_it():
    with pytest.raises(DraftbenchError, match="captures go to Ray") as caught, connected("slurm://x"):
        pass
    assert "--shards" in caught.value.fix


def test_a_target_on_disk_is_planned_alike_with_and_without_its_weights(
    home: Home, recipe: Recipe, plan: CapturePlan, tiny_target_folder: Path
):
    from engine.planning.outlines import target_outline

    outline = target_outline(ModelSpec(model=str(tiny_target_folder), dtype="float32", device="cpu"))
    assert outline is not None
    assert plan_capture(home.captures, outline, questions(), recipe.capture).address == plan.address
