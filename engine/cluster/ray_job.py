"""One run on the cluster, as the driver sees it: asked for a node, laid out there, looked after until it ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, FileLock, Timeout

from engine.cluster.capture_order import CaptureKeys
from engine.cluster.transfer import Changes, bring_home
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.paths import Home
from engine.records.files import STATUS
from engine.records.status import StopNote
from engine.runs.folder import RunFolder
from engine.runs.process import now

Stage = Literal["asked", "begun", "at work"]
_BEFORE_TRAINING = ("", "capture")


@dataclass
class Job:
    """A run with its actor. `pending` is the call that was made last, and `due` when the next one is to be made."""

    home: Home
    run: RunFolder
    recipe: Recipe
    keys: CaptureKeys
    actor: Any
    pending: Any
    stage: Stage = "asked"
    node: str = ""
    shared: bool = True
    asked_at: float = field(default_factory=time.monotonic)
    due: float = 0.0
    captures: bool = False  # whether it makes captures that others may wait for
    stops: int = 0  # how often its process was asked to stop
    _locks: dict[str, BaseFileLock] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)

    def claim(self) -> bool:
        """Take the run out of the queue, for the node; False if it was cancelled meanwhile or is worked on elsewhere.

        The caller holds the queue. The run's lock is the driver's while a node works in a home of its own; in a shared
        home the process on the node takes it.
        """
        if self.run.status().state != "queued":
            return False
        if not self.shared and not self._take(self.run.path):
            return False
        (self.run.path / StopNote.FILE).unlink(missing_ok=True)
        self.run.set_status(state="running", host=self.node, pid=None, pid_started=None, error=None, ended_at=None)
        wanted = self.recipe.resources
        lent = f"{wanted.cpus} cores, {f'{wanted.gpus:g} cards' if wanted.gpus else 'no card'}"
        where = "the home itself" if self.shared else "a home of its own"
        self.run.log(f"placed on node {self.node}, which works in {where}: {lent}")
        if wanted.minutes is not None:
            self.run.log(f"resources.minutes {wanted.minutes} is left unread: Ray ends no run because of its time")
        return True

    def bring_home(self, changes: Changes | None) -> None:
        """Write the node's news into the home. A capture that another process makes there is left to that one."""
        if changes is None:
            return
        for piece in changes.pieces:
            kind, _, rest = piece.path.partition("/")
            address = rest.partition("/")[0]
            if kind == "captures" and address not in self._refused and not self._take(self.home.captures / address):
                self._refused.add(address)
        bring_home(self.home, self.run.id, changes, refused=self._refused)

    def release(self) -> None:
        """Give back the locks of the run and its captures."""
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()

    def keep_alive(self) -> None:
        """Say in the home that the run is worked on, which its process does only when it gets on."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.run.path / STATUS)

    def is_capturing(self) -> bool:
        """Whether the captures that others wait for are still being made."""
        if self.captures and self.stage == "at work" and self.run.status().phase not in _BEFORE_TRAINING:
            self.captures = False
        return self.captures

    def settle(self, code: int, words: str) -> None:
        """After the process ended: if it could not say how, say it."""
        status = self.run.status()
        (self.run.path / StopNote.FILE).unlink(missing_ok=True)
        if status.state not in ("running", "interrupted", "queued"):
            return
        if self.stops:
            self.run.set_status(state="cancelled", ended_at=now())
            return
        ended = f"exit status {code}" if code >= 0 else f"signal {-code}"
        self.fail(
            DraftbenchError(
                f"the process on node {self.node} ended with {ended} before the work was done",
                words or "it printed nothing",
                f"correct that, then resume; `draftbench run --resume {self.run.id}` shows what happens here",
            )
        )

    def fail(self, error: DraftbenchError) -> None:
        self.run.set_status(state="failed", ended_at=now(), error=error.as_dict())

    def wait_again(self, why: str) -> None:
        """Back into the queue, at its old place, to go on from what is at home."""
        stopped = StopNote.read_or_empty(self.run.path).asked_at is not None
        (self.run.path / StopNote.FILE).unlink(missing_ok=True)
        self.run.log(why)
        self.run.set_status(state="cancelled" if stopped else "queued", **({"ended_at": now()} if stopped else {}))

    def _take(self, folder: Path) -> bool:
        """Hold a folder's lock until the job is over; False if another process holds it."""
        key = str(folder)
        if key in self._locks:
            return True
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._locks[key] = lock
        return True


def actor_options(recipe: Recipe, avoided: set[str]) -> Mapping[str, Any]:
    """What Ray is asked for a run: its resources, on a node that is not among those avoided (ids)."""
    wanted, options = recipe.resources, {"max_restarts": 0, "max_concurrency": 1}
    if wanted.memory_gb is not None:
        options["memory"] = int(wanted.memory_gb * 1e9)
    if avoided:
        options["label_selector"] = {"ray.io/node-id": f"!in({', '.join(sorted(avoided))})"}  # type: ignore[assignment]
    return {**options, "num_cpus": wanted.cpus, "num_gpus": wanted.gpus}
