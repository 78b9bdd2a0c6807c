"""The shards of a capture, filled by a Ray cluster: what is sent there, and what comes home."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.capture.adopt import SHARDS
from engine.capture.plan import CapturePlan
from engine.capture.shards import FillAll, checked_answer, failed_shards
from engine.capture.store import GrowingCapture, exclusive
from engine.cluster.node import own_build
from engine.cluster.ray_connection import SCHEMES, connect, full_address
from engine.cluster.shard_conductor import Conductor
from engine.cluster.shard_worker import CLOSING, Task
from engine.cluster.shared_home import home_token
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, first_line
from engine.paths import Home
from engine.progress import SILENT, Progress
from engine.records.capture import LastSession

_MOST_FAILURES = 3  # of Ray Data in a row, without an answer more at home
_TAKE_S = 1.0
_LOOK_S = 2.0  # between two counts of the answers at home


@contextlib.contextmanager
def connected(address: str) -> Iterator[ShardsOnRay]:
    """A connection to the Ray cluster at an address (`engine.cluster.ray_connection`).

    Raises DraftbenchError if it is none, or cannot be reached.
    """
    if address.partition("://")[0] not in SCHEMES:
        raise DraftbenchError(
            f"--on {address}: captures go to Ray",
            "elsewhere each job takes shards of its own from a shared home",
            "start the same command with --shards, and without --on, in as many jobs as you like",
        )
    connect(full_address(address, os.environ))
    import ray

    try:
        yield ShardsOnRay()
    finally:
        ray.shutdown()


class ShardsOnRay:
    """A cluster that this process is connected to."""

    def filling(self, home: Home, recipe: Recipe, progress: Progress) -> FillAll:
        """What fills the shards of a capture of the recipe."""

        def fill_all(shards: Sequence[CapturePlan]) -> None:
            whole = shards[0].whole if shards else None
            if whole is None:
                return
            (whole / SHARDS).mkdir(parents=True, exist_ok=True)
            with exclusive(whole / SHARDS, progress, f"capture {whole.name}"):
                _Filling(home, recipe, [shard for shard in shards if not shard.is_finished], progress).work()

        return fill_all


class _Filling:
    """Has shards filled, in as many rounds as it takes: a round ends early if the cluster loses what drives it."""

    def __init__(self, home: Home, recipe: Recipe, shards: Sequence[CapturePlan], progress: Progress) -> None:
        self.shards, self.progress = shards, progress
        self.order = {
            "recipe": recipe.model_dump(mode="json"),
            "home": str(home.root.absolute()),
            "token": home_token(home),
            "build": own_build(),
        }
        self.tally = Tally([shard.folder for shard in shards])
        self.errors: list[dict[str, str]] = []
        self.shown, self.looked = 0, 0.0  # answers that were reported, and when

    def work(self) -> None:
        """Fill them. Raises DraftbenchError for shards that failed, or if Ray fails again and again."""
        failures = 0
        while not self.errors and (tasks := [task for shard in self.shards if (task := task_of(shard)) is not None]):
            before = self.shown = self.tally.count()
            total = sum(len(shard.prompts) for shard in self.shards)
            self.progress.start("capture", total, "prompts", done=before)
            error = self._round(tasks)
            self._show()
            self.progress.finish()
            failures = failures + 1 if self.shown == before else 0
            if error:
                self.progress.note(f"Ray ended early, {self.shown} of {total} answers are here: {error}")
            if failures == _MOST_FAILURES:
                raise DraftbenchError(
                    f"Ray made no answer in {failures} attempts: {error or 'no node sent one'}",
                    "finished answers are kept",
                    "`ray status` and the logs of its nodes may say more; then run the same command again",
                )
        if self.errors:
            raise failed_shards(self.errors, len(self.shards))

    def _round(self, tasks: Sequence[Task]) -> str:
        """Have tasks done; returns why Ray failed, "" if it did not."""
        import ray

        coming = Coming([task.shard for task in tasks])
        conductor = ray.remote(Conductor).options(num_cpus=0, max_concurrency=1).remote()
        try:
            for task in tasks:
                self._wait(conductor.add.remote([pickle.dumps(task)]))
            self._announce(self._wait(conductor.begin.remote(self.order)), len(tasks))
            while True:
                tables, has_ended, error = self._wait(conductor.take.remote(_TAKE_S))
                for table in tables:
                    self.errors += coming.keep(table.to_pylist())
                if has_ended:
                    return str(error)
        except (ray.exceptions.RayError, ConnectionError) as error:
            return f"{type(error).__name__}: {first_line(error)}"
        finally:
            coming.close()
            with contextlib.suppress(Exception):  # of a cluster that is gone
                ray.kill(conductor)

    def _wait(self, reference: Any) -> Any:
        """The result of a call, however long that takes; meanwhile progress is shown, and the work can be stopped."""
        import ray

        while True:
            if time.monotonic() - self.looked > _LOOK_S:
                self._show()
            self.progress.stop_if_asked()
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                return ray.get(reference, timeout=_LOOK_S)

    def _show(self) -> None:
        """Report the answers that are at home as progress."""
        count, self.looked = self.tally.count(), time.monotonic()
        self.progress.advance(count - self.shown)
        self.shown = count

    def _announce(self, workers: int, shards: int) -> None:
        if workers:
            self.progress.note(f"{shards} shards on {workers} Ray workers")
        else:
            self.progress.note("no node of the cluster has at present what resources asks for: waiting for one")


def task_of(shard: CapturePlan) -> Task | None:
    """What is left to answer of a shard, after answers of other captures at home were copied; None if nothing is.

    A shard that another process fills is left to it by whoever takes the task: it waits for the shard's lock.
    """
    if shard.is_finished:
        return None
    shard.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(shard.folder / ".lock").acquire(timeout=0):
            growing = GrowingCapture(shard, SILENT)
            if growing.missing:
                return Task(shard, growing.missing)
            growing.finish(last_session=LastSession(tokens=0, seconds=0.0))
            return None
    except Timeout:
        return Task(shard, list(range(len(shard.prompts))))


class Coming:
    """The shards whose answers come as rows (`engine.cluster.shard_worker`) from nodes that do not see the home."""

    def __init__(self, shards: Sequence[CapturePlan]) -> None:
        self._shards = shards
        self._open: dict[int, tuple[FileLock, GrowingCapture, set[int]]] = {}

    def keep(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
        """Write the answers among some rows into their shards, each prompt's once; returns the errors among them.

        An answer whose checksum is wrong is left out, so that it is asked for again.
        """
        errors = []
        for row in rows:
            if row["error"]:
                errors.append(json.loads(row["error"]))
            elif row["index"] != CLOSING:
                self._add(row)
            elif row["line"]:
                self._finish(row["shard"], LastSession.model_validate_json(row["line"]))
        return errors

    def close(self) -> None:
        """Let go of the shards that are not finished."""
        for lock, _, _ in self._open.values():
            lock.release()
        self._open.clear()

    def _add(self, row: dict[str, Any]) -> None:
        opened = self._opened(row["shard"])
        answer = checked_answer(row["index"], json.loads(row["line"]), row["signal"])
        if opened is not None and answer is not None and answer.index in opened[2]:
            opened[1].add(answer.index, answer, **answer.beside)
            opened[2].remove(answer.index)

    def _finish(self, number: int, session: LastSession) -> None:
        opened = self._opened(number)
        if opened is not None and not opened[2]:
            opened[1].finish(last_session=session)
            self._open.pop(number)[0].release()

    def _opened(self, number: int) -> tuple[FileLock, GrowingCapture, set[int]] | None:
        """A shard's lock, the shard, and its unanswered prompts; None if it is finished or another process fills it."""
        shard = self._shards[number]
        if number not in self._open and not shard.is_finished:
            lock = FileLock(shard.folder / ".lock")
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                growing = GrowingCapture(shard, SILENT)
                self._open[number] = lock, growing, set(growing.missing)
        return self._open.get(number)


class Tally:
    """Counts answers in growing files; each byte is read once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._read = {folder / "answers.jsonl": (0, 0) for folder in folders}  # bytes, lines

    def count(self) -> int:
        """The answers that are there now."""
        for path, (size, lines) in self._read.items():
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(size)
                raw = file.read()
                self._read[path] = size + len(raw), lines + raw.count(b"\n")
        return sum(lines for _, lines in self._read.values())
