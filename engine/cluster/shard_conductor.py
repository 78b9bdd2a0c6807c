"""Ray Data for a capture in shards: an actor that drives it inside the cluster, since Ray Client cannot stream.

The actor starts in a second, as nothing here loads torch but the workers do.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import first_line

if TYPE_CHECKING:
    import pyarrow as pa

_WAITING = 4  # batches of rows that wait to be taken
_LOST_NODES = 20  # how often a worker, and what it was doing, is begun again on another node


class LazyWorker:
    """A `ShardWorker` in the form that Ray Data calls."""

    def __init__(self, order: Mapping[str, Any], tasks: Sequence[Any]) -> None:
        """`tasks`: references to pickled tasks."""
        from engine.cluster.shard_worker import ShardWorker

        self._worker, self._tasks = ShardWorker(order), tasks

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[pa.Table]:
        import ray

        for number in map(int, batch["number"]):
            yield from self._worker.work(number, pickle.loads(ray.get(self._tasks[number])))


class Conductor:
    """Drives Ray Data inside the cluster. `add` each task, `begin`, then `take` rows until it says that it ended."""

    def __init__(self) -> None:
        self._tasks: list[Any] = []
        self._tables: queue.Queue[pa.Table] = queue.Queue(_WAITING)
        self._error = ""
        self._thread: threading.Thread | None = None

    def add(self, tasks: Sequence[bytes]) -> None:
        """Add pickled tasks, which stay in the cluster's memory."""
        import ray

        self._tasks += [ray.put(task) for task in tasks]

    def begin(self, order: Mapping[str, Any]) -> int:
        """Begin; the number of workers. 0: no node has at present what a worker needs, so one waits for such a node."""
        import ray

        recipe = parse_recipe(order["recipe"], stored=True)
        options, server = _options(recipe), recipe.capture.server
        places = _places([node["Resources"] for node in ray.nodes() if node["Alive"]], options)
        most = (server and server.requests_per_minute) or len(self._tasks)
        workers = max(1, min(places, len(self._tasks), most))
        order = {**order, "recipe": _rate_shared_out(recipe, workers).model_dump(mode="json")}
        self._thread = threading.Thread(target=self._work, args=(order, options, workers), daemon=True)
        self._thread.start()
        return min(places, workers)

    def take(self, seconds: float) -> tuple[list[pa.Table], bool, str]:
        """Rows that came, whether they were the last, and why Ray Data failed. Waits so long for the first rows."""
        assert self._thread is not None
        has_ended = not self._thread.is_alive()  # before the queue is looked at
        try:
            return [self._tables.get(timeout=seconds)], False, ""
        except queue.Empty:
            return [], has_ended, self._error

    def _work(self, order: Mapping[str, Any], options: Mapping[str, Any], workers: int) -> None:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        try:
            numbers = [{"number": number} for number in range(len(self._tasks))]
            rows = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
                LazyWorker,
                batch_size=1,
                fn_constructor_args=(dict(order), self._tasks),
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=1
                ),
                max_restarts=_LOST_NODES,
                max_task_retries=_LOST_NODES,
                **options,
            )
            for table in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
                self._tables.put(table)
        except BaseException as error:
            self._error = f"{type(error).__name__}: {first_line(error)}"


def _options(recipe: Recipe) -> dict[str, Any]:
    """What Ray is asked for each worker."""
    wanted = recipe.resources
    memory = {} if wanted.memory_gb is None else {"memory": int(wanted.memory_gb * 1e9)}
    return {"num_cpus": wanted.cpus, **({"num_gpus": wanted.gpus} if wanted.gpus else {}), **memory}


def _places(nodes: Sequence[Mapping[str, float]], options: Mapping[str, float]) -> int:
    """How many workers with these options the nodes hold, by their resources."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    wanted = {names[option]: amount for option, amount in options.items()}
    return sum(min(int(node.get(name, 0) // amount) for name, amount in wanted.items()) for node in nodes)


def _rate_shared_out(recipe: Recipe, workers: int) -> Recipe:
    """The recipe of one of so many workers: a server's requests per minute are shared out, and never exceeded."""
    server = recipe.capture.server
    if server is None or server.requests_per_minute is None:
        return recipe
    server = server.model_copy(update={"requests_per_minute": max(1, server.requests_per_minute // workers)})
    return recipe.model_copy(update={"capture": recipe.capture.model_copy(update={"server": server})})
