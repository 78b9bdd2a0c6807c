"""A run's folder: the truth about the run, from which everything else can be rebuilt.

runs/<id>/
  config.yaml       the resolved recipe
  status.json       state, phase, progress, process; replaced atomically
  events.jsonl      what happened, appended
  log.txt           the same for people
  stop.json         while it works: that it was asked to stop, and when
  provenance.json   versions, commit, seeds, hashes
  checkpoints/      the newest one, while it trains
  draft/            best/ and last/
  measure/          Parquet tables and summary.json
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_atomic
from engine.paths import Home, is_run_name, run_id_of
from engine.records.files import CONFIG, LOCK, STATUS, SUMMARY
from engine.records.folders import DAMAGED, run_names
from engine.records.record import NewerDocumentError
from engine.records.status import Status, StopNote
from engine.records.values import utc
from engine.runs.process import now, present_state, process_identity, this_host

if TYPE_CHECKING:
    from engine.config.schema import Recipe
    from engine.records.events import Event
    from engine.records.summary import Summary

_LATEST = re.compile(r"latest(?:~(\d{1,6}))?")
_STAMP = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}")  # what `create` adds to a recipe's name
_STAMP_LENGTH = len("-20260101-120000-0f3a")
_MOST_LISTED = 5  # ids in an error
_STUCK_S = 10.0  # after which a process that was asked to stop does not do so by itself
_HEARTBEAT_S = 2.0  # at most this often is the status file rewritten for progress alone


class RunFolder:
    """One run on disk. Reading needs nothing; working on it needs `working()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beat = 0.0

    @property
    def id(self) -> str:
        """The folder's name, as far as it can be one: see `engine.paths.run_id_of`. Nothing inside says who it is."""
        return run_id_of(self.path.name)

    @staticmethod
    def create(home: Home, recipe: Recipe, **status: Any) -> RunFolder:
        """Create the folder with its recipe and first status; the id is the recipe's name, the time and random hex."""
        from engine.config.reading import dump_recipe  # the schema, which a list of states does without

        run = _unused(home, recipe.name)
        begun = RunFolder(run.path.with_name(f".{run.path.name}.new"))  # hidden: half a run is none
        try:
            with disk_errors(run.path):
                begun.path.mkdir(parents=True)
        except OSError as error:
            raise DraftbenchError(
                f"cannot make {run.path}: {error.strerror}",
                "every run needs a folder of its own",
                "choose another place with DRAFTBENCH_HOME",
            ) from error
        try:
            write_atomic(begun.path / CONFIG, dump_recipe(recipe))
            begun.set_status(state="queued", phase="", created_at=now(), run_id=run.id, **status)
            with disk_errors(run.path):
                begun.path.rename(run.path)
        except BaseException:
            shutil.rmtree(begun.path, ignore_errors=True)
            raise
        return run

    @staticmethod
    def open(home: Home, name: str) -> RunFolder:
        """The run of that id or folder, the only run of a recipe of that name, or the only one whose id starts with it;
        `latest`, or `latest~1` for the one before. A whole id names no other run, such as a copy with a longer name."""
        latest = _LATEST.fullmatch(name)
        if latest is None:
            if is_run_name(name) and _is_there(home.runs / name):
                return RunFolder(home.runs / name)
            if _is_there(home.run(name)):  # else refused here if it is no id
                return RunFolder(home.run(name))
        known = [run.id for run in run_folders(home)]
        if latest is not None:
            back = int(latest[1] or 0)
            if back < len(known):
                return RunFolder(home.run(known[back]))
            raise _unknown(home, name, known, f"there are {len(known)} runs in {home.runs}")
        is_whole = _STAMP.search(name, max(0, len(name) - _STAMP_LENGTH)) is not None
        matching = [run_id for run_id in known if run_id.startswith(name) and not is_whole]
        named = [
            run_id for run_id in matching if _STAMP.fullmatch(run_id[len(name) :])
        ]  # lora-..., not lora-biology-...
        if len(named or matching) == 1:
            return RunFolder(home.run((named or matching)[0]))
        if matching:
            raise _ambiguous(name, named or matching)
        raise _unknown(home, name, known, f"no such run in {home.runs}")

    @staticmethod
    def exists(home: Home, run_id: str) -> bool:
        """Whether there is a run of exactly that id."""
        with contextlib.suppress(DraftbenchError):
            return _is_there(home.run(run_id))
        return False

    def recipe(self) -> Recipe:
        """The resolved recipe this run was made from."""
        from engine.records.recipe import read_recipe

        return read_recipe(self.path)

    def status(self) -> Status:
        """What the run is doing: its status file, as far as that is still true.

        `state` is 'damaged' if the file is not whole, and 'interrupted' if it says 'running' and the process is gone,
        or the folder is a copy: the process and the place in the queue are the original's.
        """
        status = self._stored_status()
        if status.state in ("queued", "running") and not status.belongs_to(self.path):
            return status.model_copy(update={"state": "interrupted"})
        state = present_state(status, self.path)
        note = StopNote.read_or_empty(self.path) if state == "running" else StopNote()
        asked = note.asked_at if note.pid == status.pid else None  # not by a note for an earlier process
        if asked is None and state == status.state:
            return status
        return status.model_copy(update={"state": state, "stop_asked_at": asked})

    def _stored_status(self) -> Status:
        """The status file as it stands, empty if there is none, with the state 'damaged' if it is not whole."""
        try:
            return stored_status(self.path)
        except DraftbenchError:
            return Status(state=DAMAGED)

    def set_status(self, **changes: Any) -> None:
        """Change some keys of the status file, replaced atomically; a damaged one is replaced.

        Raises NewerDocumentError for that of a later version, which would be lost.
        """
        kept = {}
        try:
            kept = stored_status(self.path).document()
        except DraftbenchError as error:
            if isinstance(error, NewerDocumentError):
                raise
        changes |= {"updated_at": now()}
        Status.model_validate({**kept, "run_id": self.id, **changes}).write(self.path)
        self._beat = time.monotonic()

    def heartbeat(self, progress: Mapping[str, Any]) -> None:
        """Note how far the work is, every few seconds at most and whenever a phase begins."""
        if progress["done"] == 0 or time.monotonic() - self._beat > _HEARTBEAT_S:
            self.set_status(phase=progress["phase"], progress=progress)

    def emit(self, event: Event) -> None:
        """Append an event with the present time."""
        from engine.records.events import append_event

        append_event(self.path, event)

    def log(self, text: str) -> None:
        """Append a line for people, with its time."""
        with disk_errors(self.path), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Be the one process that works on this run; a second one is refused."""
        lock = FileLock(self.path / LOCK)
        try:
            with disk_errors(self.path):
                lock.acquire(timeout=0)
        except Timeout:
            raise DraftbenchError(
                f"run {self.id} is being worked on by process {self.status().pid or 'unknown'}",
                "two processes would overwrite each other's checkpoints",
                f"wait for it, or cancel it with `draftbench runs cancel {self.id}`",
            ) from None
        try:
            (self.path / StopNote.FILE).unlink(missing_ok=True)
            self.set_status(state="running", error=None, ended_at=None, host=this_host(), **process_identity())
            yield
        finally:
            with contextlib.suppress(OSError):
                (self.path / StopNote.FILE).unlink(missing_ok=True)
            lock.release()

    def ask_to_stop(self) -> int:
        """SIGTERM to the process that works on the run, which then ends within seconds (`engine.stopping`); its id.

        Asked twice, it leaves at once and loses what was done since its last checkpoint; one that was asked long ago,
        and should have ended by itself, is killed. A note says since when it was asked (`stop_asked_at` of the status).
        """
        status = self.status()
        process = status.pid
        if status.state != "running" or process is None:
            raise DraftbenchError(
                f"run {self.id} is {status.state}",
                "only a running run can be cancelled",
                "`draftbench runs` shows the states",
            )
        if status.host not in (None, this_host()):
            raise DraftbenchError(
                f"run {self.id} is worked on by process {process} of {status.host}",
                "a process can be asked to stop only by the machine that it runs on",
                f"cancel the run on {status.host}",
            )
        try:
            os.kill(process, signal.SIGKILL if _asked_long_ago(status) else signal.SIGTERM)
        except OSError as error:
            raise DraftbenchError(
                f"process {process} of run {self.id} could not be asked to stop",
                str(error.strerror),
                "it has just ended, or belongs to another user: `draftbench runs` shows the state",
            ) from None
        if status.stop_asked_at is None:
            with contextlib.suppress(DraftbenchError, OSError):  # a full disk does not keep a run from being stopped
                StopNote(pid=process, asked_at=now()).write(self.path)
        return process

    @property
    def summary_path(self) -> Path:
        return self.path / SUMMARY

    def summary(self) -> Summary:
        """The measurement's summary; an error if the run was not measured yet."""
        if not self.summary_path.exists():
            raise DraftbenchError(
                f"run {self.id} has no measurement",
                f"its state is {self.status().state}",
                f"finish it with `draftbench run --resume {self.id}`",
            )
        from engine.records.summary import Summary

        try:
            return Summary.read(self.path) or Summary()
        except DraftbenchError as error:
            from engine.runs.advice import measures_again  # which is about run folders

            why = str(error).splitlines()[0]
            raise DraftbenchError(f"{self.summary_path} is damaged", why, measures_again(self)) from None


class FollowedRun(RunFolder):
    """The folder of a run that another process works on: this one reads it, and writes nothing."""

    def set_status(self, **changes: Any) -> None:
        """Left to the process that works on the run, as are the other two."""

    def emit(self, event: Event) -> None:
        """Left to it."""

    def log(self, text: str) -> None:
        """Left to it."""


def run_folders(home: Home) -> list[RunFolder]:
    """Every run, the one created last first; a damaged one is among them."""
    runs = [RunFolder(home.runs / name) for name in run_names(home)]
    return sorted(runs, key=lambda run: (run._stored_status().created_at or "", run.id), reverse=True)


def _unused(home: Home, name: str) -> RunFolder:
    """A run of that name whose id no other has: of many runs that are queued at once, two may draw the same digits."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    while True:
        run = RunFolder(home.run(f"{name}-{stamp}-{secrets.token_hex(2)}"))
        if not os.path.lexists(run.path):
            return run


def _asked_long_ago(status: Status) -> bool:
    asked = status.stop_asked_at
    return asked is not None and (utc(now()) - utc(asked)).total_seconds() > _STUCK_S


def _is_there(path: Path) -> bool:
    """A folder, or a link, which may lead nowhere; a plain file in `runs` is no run."""
    try:
        return path.is_symlink() or path.is_dir()
    except OSError:
        return False


def stored_status(folder: Path) -> Status:
    """The status file, read again only when it has changed: queue and pages ask for every run's, every second.

    Empty if there is none. Raises DraftbenchError if it is damaged.
    """
    try:
        stat = os.stat(f"{folder}/{STATUS}")
        key = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
    except OSError:
        return Status.read(folder) or Status()
    cached = _STATUSES.get(folder)
    if cached is None or cached[0] != key:
        if len(_STATUSES) >= _MOST_STATUSES:
            _STATUSES.clear()
        cached = (key, Status.read(folder) or Status())
        _STATUSES[folder] = cached
    return cached[1]


_STATUSES: dict[Path, tuple[tuple[int, ...], Status]] = {}
_MOST_STATUSES = 50_000


def _ambiguous(name: str, matching: list[str]) -> DraftbenchError:
    """`matching`: ids, the newest run first."""
    shown = ", ".join(matching[:_MOST_LISTED]) + (" ..." if len(matching) > _MOST_LISTED else "")
    return DraftbenchError(
        f"{name!r} is the beginning of {len(matching)} runs",
        "a run is named by as much of its id as no other has",
        f"give more of the id, newest first: {shown}; or `latest`",
    )


def _unknown(home: Home, name: str, near: list[str], why: str) -> DraftbenchError:
    beginnings = {run_id[: len(name)]: run_id for run_id in reversed(near)}
    similar = [beginnings[part] for part in difflib.get_close_matches(name, beginnings, n=3, cutoff=0.4)]
    hint = f"did you mean {', '.join(similar)}? " if similar else ""
    listed = "`draftbench runs` lists the ids" if near else "start one with `draftbench run recipes/quickstart.yaml`"
    return DraftbenchError(f"unknown run {name!r}", why, hint + listed)
