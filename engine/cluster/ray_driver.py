"""The driver: hands waiting runs to nodes, brings their results home, and sees to it that a lost node loses no run.

It keeps nothing but what is in the run folders, so that it may be killed at any moment: what it worked on is then
queued again by the next driver. Of runs that share captures, one makes them and the others wait for it, so the
captures come before the cells that need them, nothing is captured twice, and progress shows on that run's page.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import Counter
from typing import Any

from engine.cluster.capture_order import CapturesAtHome
from engine.cluster.node import file_marks, local_files, own_build
from engine.cluster.node_actor import NodeActor
from engine.cluster.ray_connection import connect
from engine.cluster.ray_job import Job, actor_options
from engine.cluster.transfer import bundle
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, first_line
from engine.index.ingest import ingest_run
from engine.jobs import queue
from engine.paths import Home
from engine.records.status import Status, StopNote
from engine.runs.faults import explain
from engine.runs.folder import RunFolder
from engine.runs.process import now

MOST_WAITING = 16  # actors that Ray has not placed yet: enough for a cluster that grows by demand
MOST_LOSSES = 6  # nodes that a run may lose one after the other
_LOOK_S = 0.5  # between two looks at a run: a free place waits half of it on average
_POLL_S = 0.25
_HEARTBEAT_S = 10.0
_NO_NODE_S = 30.0
_RETRY_S = (5, 10, 20, 40, 60)


class Driver:
    """Work on what waits at an address, until nothing does. `token` is the home's (`engine.cluster.ray_place`)."""

    def __init__(self, home: Home, address: str, token: str) -> None:
        self.home, self.address, self.token = home, address, token
        self.jobs: dict[str, Job] = {}
        self.captures = CapturesAtHome(home)
        self.made: set[str] = set()
        self.losses: Counter[str] = Counter()
        self.avoided: dict[str, dict[str, Any]] = {}  # id of a node that may do nothing -> why
        self.avoided_by: dict[str, dict[str, Any]] = {}  # run -> ids of nodes that cannot do it, with why
        self.shared_objects: dict[str, Any] = {}  # address of a capture -> its bytes in the object store
        self.said: set[str] = set()
        self.beat = 0.0

    def work_off(self) -> None:
        """Connect, and work until no run waits."""
        self._connect()
        import ray

        try:
            self.made = self.captures.made()
            while self._place() or self.jobs or self._take_up_left():
                self._listen()
                self._pass_on_stops()
                self._now_and_then()
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        """Connect as soon as the cluster can be reached. Raises the last error once nothing waits any more.

        What an earlier driver left is queued first: where the cluster is gone for long, it waits, and says so.
        """
        tries = 0
        while True:
            at_work = self._take_up_left()
            try:
                return connect(self.address)
            except DraftbenchError as error:
                print(error, flush=True)
                for run in self._waiting():
                    self._say_once(run, f"{error.what}; the run waits")
                if not (at_work or self._waiting()):
                    raise
                time.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
                tries += 1

    def _waiting(self) -> list[RunFolder]:
        return [run for run in queue.waiting(self.home, self.address) if run.id not in self.jobs]

    def _take_up_left(self) -> bool:
        """Queue again what a driver that is gone was working on; whether any run was left by one.

        One whose process has not ended yet, in a home that its node sees, is taken up later.
        """
        with queue.changing(self.home):
            left = [
                run
                for run, status in queue.statuses(self.home)
                if _was_left(status, self.address) and run.id not in self.jobs
            ]
            for run in left:
                stopped = StopNote.read_or_empty(run.path).asked_at is not None
                if not queue.is_held(run.path / ".lock"):
                    run.log("its driver is gone; it continues from what is at home")
                    run.set_status(state="cancelled" if stopped else "queued")
                elif stopped and f"asked {run.id}" not in self.said:  # a terminal here has taken it over
                    self.said.add(f"asked {run.id}")
                    with contextlib.suppress(DraftbenchError):
                        run.ask_to_stop()
        return bool(left)

    def _place(self) -> bool:
        """Ask for nodes for waiting runs; whether any run waits.

        A run that needs a capture which another one is making waits for that one.
        """
        waiting = self._waiting()
        for run in waiting:
            if sum(job.stage == "asked" for job in self.jobs.values()) >= MOST_WAITING:
                break
            keys = self.captures.keys(run)
            if keys is None:
                self._cannot_start(run)
                continue
            makes = not keys.captures <= self.made
            making = [job.keys for job in self.jobs.values() if job.is_capturing()]
            busy = {one.heldout for one in making} | {one.source for one in making}
            if makes and ({keys.heldout} - self.made | {keys.source}) & busy:
                continue
            try:
                recipe = run.recipe()
                refusal = self._refusal(run, recipe)
                if refusal is not None:
                    raise DraftbenchError(**refusal)
                self.jobs[run.id] = self._ask(run, recipe, makes)
            except (DraftbenchError, OSError, ValueError) as error:  # of this run's recipe or folder
                explained = explain(error) or DraftbenchError(f"could not be placed: {first_line(error)}")
                run.set_status(state="failed", ended_at=now(), error=explained.as_dict())
        return bool(waiting)

    def _cannot_start(self, run: RunFolder) -> None:
        try:
            run.recipe()
        except DraftbenchError as error:
            run.set_status(state="failed", ended_at=now(), error=error.as_dict())

    def _ask(self, run: RunFolder, recipe: Recipe, makes: bool) -> Job:
        import ray

        avoided = {*self.avoided, *self.avoided_by.get(run.id, {})}
        actor = ray.remote(NodeActor).options(**actor_options(recipe, avoided)).remote()
        order = {
            "run": run.id,
            "home": str(self.home.root.absolute()),
            "token": self.token,
            "build": own_build(),
            "files": file_marks(local_files(recipe)),
            "captures": self.captures.wanted_by(run),
            "cpus": recipe.resources.cpus,
            "gpus": recipe.resources.gpus,
        }
        keys = self.captures.keys(run)
        assert keys is not None
        return Job(self.home, run, recipe, keys, actor, actor.prepare.remote(order), captures=makes)

    def _listen(self) -> None:
        """Wait a moment for answers of nodes, and act on those that came."""
        import ray

        time_now = time.monotonic()
        for job in self.jobs.values():
            if job.pending is None and time_now >= job.due:
                job.pending = job.actor.look.remote()
        pending = {job.pending: job for job in self.jobs.values() if job.pending is not None}
        ready = ray.wait(list(pending), num_returns=1, timeout=_POLL_S)[0] if pending else []
        if pending and ready:
            ready = ray.wait(list(pending), num_returns=len(pending), timeout=0)[0]
        elif not pending:
            time.sleep(_POLL_S)
        for reference in ready:
            job = pending[reference]
            job.pending = None
            self._hear(job, reference)
        for job in [job for job in self.jobs.values() if job.stage == "asked"]:
            self._still_asked(job)

    def _hear(self, job: Job, reference: Any) -> None:
        """Act on the answer to a job's last call."""
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError, RuntimeEnvSetupError

        try:
            answer = ray.get(reference)
            if job.stage == "asked":
                self._begin(job, answer)
            elif job.stage == "begun":
                job.stage, job.due = "at work", time.monotonic()
            else:
                self._look(job, answer)
        except RayTaskError as error:
            cause = getattr(error, "cause", error)
            print(traceback.format_exc(), flush=True)
            self._fail(
                job, explain(cause) or DraftbenchError(f"node {job.node or 'of the cluster'}: {first_line(cause)}")
            )
        except RuntimeEnvSetupError as error:
            self._fail(
                job, DraftbenchError(f"the runtime_env could not be set up: {first_line(error)}", "", "correct it")
            )
        except RayActorError as error:
            if "creation task" in str(error):  # the actor's class could not be loaded there
                self._fail(job, _no_draftbench(error))
            else:
                self._lost(job, error)
        except RayError as error:
            self._lost(job, error)
        except Exception as error:  # of the home, such as a full disk: the other runs go on
            print(traceback.format_exc(), flush=True)
            what = f"could not bring the run home: {first_line(error)}"
            self._fail(job, explain(error) or DraftbenchError(what))

    def _begin(self, job: Job, answer: dict[str, Any]) -> None:
        job.node = answer["node"]
        if answer["refusal"] is not None:
            self._refused(job, answer)
            return
        job.shared = answer["shared"]
        with queue.changing(self.home):
            if not job.claim():
                self._leave(job)
                return
        cargo = None if job.shared else self._cargo(job, answer["missing"])
        job.stage, job.pending = "begun", job.actor.begin.remote(cargo)

    def _refused(self, job: Job, answer: dict[str, Any]) -> None:
        """Leave the node out; the run waits for another."""
        avoided = self.avoided if answer["for_all"] else self.avoided_by.setdefault(job.run.id, {})
        avoided[answer["node_id"]] = answer["refusal"]
        self._say_once(job.run, f"left out: {answer['refusal']['what']}")
        self._leave(job)

    def _refusal(self, run: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
        """Why no node may do a run, if all that could hold it were left out; None while there may be one."""
        import ray

        avoided = {**self.avoided, **self.avoided_by.get(run.id, {})}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"] and _fits(node, recipe)} if avoided else set()
        return avoided[min(alive)] if alive and alive <= avoided.keys() else None

    def _cargo(self, job: Job, missing: list[str]) -> dict[str, Any]:
        """What a node needs that does not see the home: the run, drafts of other runs, captures, allowed keys."""
        named = [job.recipe.draft.checkpoint, job.recipe.train.selection.reference]
        others = [RunFolder.open(self.home, name) for name in named if name and RunFolder.exists(self.home, name)]
        keys = self.home.root / "allowed-keys.json"
        return {
            "runs": {run.id: bundle(run.path) for run in [job.run, *others]},
            "captures": {address: [self._object(address)] for address in missing},
            "allowed_keys": keys.read_bytes() if keys.exists() else None,
        }

    def _object(self, address: str) -> Any:
        """A capture in the object store; one that is whole is put there once for all runs."""
        import ray

        if address not in self.shared_objects or not self.captures.is_whole(address):
            self.shared_objects[address] = ray.put(bundle(self.home.captures / address))
        return self.shared_objects[address]

    def _look(self, job: Job, answer: dict[str, Any]) -> None:
        job.bring_home(answer["changes"])
        if not job.is_capturing():
            self.made |= job.keys.captures
        job.due = time.monotonic() + _LOOK_S
        if answer["ended"] is not None:
            job.settle(answer["ended"], answer["words"])
            self._leave(job)

    def _leave(self, job: Job) -> None:
        """The job is over: its actor goes, its locks are free, and the index knows how it ended."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # its node clears up when it is asked for the next run
            ray.get(job.actor.leave.remote(), timeout=10)
        ray.kill(job.actor)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        job.release()
        del self.jobs[job.run.id]
        try:
            ingest_run(self.home.index, job.run.path)
        except Exception as error:  # as at the end of a local run: a failing index spoils nothing
            with contextlib.suppress(DraftbenchError, OSError):
                job.run.log(f"the index was not updated: {error}")

    def _fail(self, job: Job, error: DraftbenchError) -> None:
        job.fail(error)
        self._leave(job)

    def _lost(self, job: Job, error: Exception) -> None:
        """A node, or the actor on it, is gone: the run waits again, from what is at home."""
        import ray

        self.losses[job.run.id] += 1
        where = job.node or "of the cluster"
        print(f"{job.run.id}: node {where}: {first_line(error)}", flush=True)
        ray.kill(job.actor)
        if self.losses[job.run.id] >= MOST_LOSSES:
            what = f"the run lost its node {MOST_LOSSES} times, {where} last"
            job.fail(
                DraftbenchError(what, first_line(error), "see to the cluster, then resume: what is at home is kept")
            )
        elif job.stage != "asked":
            job.wait_again(f"node {where} was lost; the run continues from what is at home")
        self._forget(job)

    def _still_asked(self, job: Job) -> None:
        """A run that waits for a node: it may be cancelled, and there may be no node that could ever do it."""
        import ray

        if job.run.status().state != "queued":
            ray.kill(job.actor)
            self._forget(job)
        elif time.monotonic() - job.asked_at > _NO_NODE_S and f"no node {job.run.id}" not in self.said:
            self.said.add(f"no node {job.run.id}")
            if not any(node["Alive"] and _fits(node, job.recipe) for node in ray.nodes()):
                asked = job.recipe.resources.model_dump(include={"gpus", "cpus", "memory_gb"}, exclude_none=True)
                wanted = ", ".join(f"resources.{name} {amount:g}" for name, amount in asked.items())
                self._say_once(
                    job.run, f"no node of the cluster has what the run asks for ({wanted}): it waits for one"
                )

    def _pass_on_stops(self) -> None:
        for job in self.jobs.values():
            if job.stage == "at work" and job.stops < 2:
                note = StopNote.read_or_empty(job.run.path)
                wanted = 0 if note.asked_at is None else 2 if note.at_once else 1
                while job.stops < wanted:
                    job.actor.stop.remote()
                    job.stops += 1

    def _now_and_then(self) -> None:
        """Say of each run that it is worked on, and look for what an earlier driver left."""
        if time.monotonic() - self.beat > _HEARTBEAT_S:
            self.beat = time.monotonic()
            for job in self.jobs.values():
                if job.stage != "asked":
                    job.keep_alive()
            self._take_up_left()

    def _say_once(self, run: RunFolder, words: str) -> None:
        if f"{run.id}: {words}" not in self.said:
            self.said.add(f"{run.id}: {words}")
            print(f"{run.id}: {words}", flush=True)
            run.log(words)


def _was_left(status: Status, address: str) -> bool:
    return status.place == address and status.state in ("running", "interrupted") and bool(status.queued_at)


def _no_draftbench(error: Exception) -> DraftbenchError:
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    return DraftbenchError(
        "a node of the cluster could not start Draftbench",
        lines[-1] if lines else first_line(error),
        "install the same version on every node, or give a runtime_env (docs/cluster.md)",
    )


def _fits(node: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a node has, when it is idle, what a recipe asks for."""
    has, wanted = node["Resources"], recipe.resources
    memory = 0.0 if wanted.memory_gb is None else wanted.memory_gb * 1e9
    asked = {"CPU": wanted.cpus, "GPU": wanted.gpus, "memory": memory}
    return all(has.get(name, 0.0) >= amount for name, amount in asked.items())
