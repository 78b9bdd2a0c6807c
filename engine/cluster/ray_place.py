"""A Ray cluster as a place: runs wait in the home, and a detached driver hands them to the cluster's nodes.

The functions do what those of `engine.jobs.queue` do. The driver is to this place what the worker is to the local
queue: one per home and address, with a lock, started by `wake` and gone when nothing waits. A run that it was working
on when it was killed is taken up by the next one from what is at home.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from engine.cluster.cards import check_cards
from engine.cluster.ray_connection import check_reachable, full_address
from engine.cluster.shared_home import home_token
from engine.config.schema import Recipe
from engine.fileio import content_hash, disk_errors
from engine.jobs import queue
from engine.jobs.detached import start_detached, wait_aside
from engine.paths import Home
from engine.records.status import StopNote
from engine.runs.folder import RunFolder
from engine.runs.process import is_alive, now, this_host


def place(address: str) -> RayPlace:
    """The place of an address (`engine.cluster.ray_connection`), for `engine.jobs.executors`."""
    return RayPlace(full_address(address, os.environ))


@dataclass(frozen=True)
class RayPlace:
    """Runs on a Ray cluster."""

    address: str

    def submit_all(self, home: Home, recipes: Sequence[Recipe]) -> list[RunFolder]:
        """New runs that wait for nodes, in the order given: all of them, or none if one cannot be created.

        Raises DraftbenchError if the cluster cannot be reached, or a recipe asks for a card without saying so.
        """
        check_reachable(self.address)
        for recipe in recipes:
            check_cards(recipe)
        runs = queue.enqueue(home, recipes, self.address)
        self.wake(home)
        return runs

    def resume(self, home: Home, run: RunFolder) -> RunFolder:
        """Let a run that stopped wait for a node. One that waits or runs is left as it is."""
        check_reachable(self.address)
        queue.requeue(home, run, self.address)
        self.wake(home)
        return run

    def cancel(self, home: Home, run: RunFolder) -> str:
        """Take a waiting run out, or leave a note for the driver that it is to stop; what will happen, in words."""
        with queue.changing(home):
            status = run.status()
            if status.state == "queued":
                run.set_status(state="cancelled", ended_at=now())
                return f"Run {run.id} was taken out of the queue. It can be resumed."
        is_here = status.host == this_host() and is_alive(status.pid, status.pid_started)
        if status.state != "running" or (is_here and not queue.is_held(self.lock(home))):  # a terminal works on it
            return queue.cancel(home, run)
        again = status.stop_asked_at is not None
        StopNote(pid=status.pid, asked_at=status.stop_asked_at or now(), at_once=again).write(run.path)
        self.wake(home)
        if again:
            return f"Run {run.id} on {status.host} was asked to stop at once. What is finished is kept."
        return (
            f"Run {run.id} on {status.host} was asked to stop. It stops at its next safe point and keeps what is "
            "finished, so it can be resumed. Cancel it once more to stop it at once."
        )

    def wake(self, home: Home) -> None:
        """Start the driver if runs wait, or were left by a driver that is gone."""
        if not self.unfinished(home) or queue.is_held(self.lock(home)):
            return
        folder = self.folder(home)
        folder.mkdir(parents=True, exist_ok=True)
        with disk_errors(folder), open(folder / "driver.log", "ab") as log:
            wait_aside(start_detached(home, [sys.executable, "-m", "engine", "work", "--on", self.address], log))

    def work(self, home: Home) -> None:
        """Be the driver until nothing waits. Leaves at once if another one is there."""
        from engine.cluster.ray_driver import Driver

        folder = self.folder(home)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock(home))
        while self.unfinished(home):  # looked at once more after the lock is free: a submit just before saw it held
            try:
                with lock.acquire(timeout=0):
                    Driver(home, self.address, home_token(home)).work_off()
            except Timeout:
                return

    def unfinished(self, home: Home) -> list[RunFolder]:
        """The runs that wait here, or that the last driver was working on."""
        states = ("queued", "running", "interrupted")
        mine = ((run, status) for run, status in queue.statuses(home) if status.place == self.address)
        return [run for run, status in mine if status.state in states and status.queued_at]

    def folder(self, home: Home) -> Path:
        """Where the driver's lock and log are."""
        return home.root / "places" / f"ray-{content_hash(self.address)[:12]}"

    def lock(self, home: Home) -> Path:
        """The lock that the driver holds while it lives."""
        return self.folder(home) / "driver.lock"
