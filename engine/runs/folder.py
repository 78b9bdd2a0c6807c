"""A run's folder: the truth about the run, from which everything else can be rebuilt.

runs/<id>/
  config.yaml       the resolved recipe
  status.json       state, phase, progress, process; replaced atomically
  events.jsonl      what happened, appended
  log.txt           the same for people
  provenance.json   versions, commit, seeds, hashes
  checkpoints/      the newest one
  draft/            best/ and last/
  measure/          Parquet tables and summary.json
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.config import Recipe, dump_recipe, load_recipe
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import append_line, disk_errors, read_json, write_atomic, write_json
from engine.paths import Home
from engine.runs.status import effective_state, now, this_process

_HEARTBEAT_S = 2.0  # at most this often is the status file rewritten for progress alone


class RunFolder:
    """One run on disk. Reading needs nothing; working on it needs `working()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beat = 0.0

    @property
    def id(self) -> str:
        return self.path.name

    @staticmethod
    def create(home: Home, recipe: Recipe) -> RunFolder:
        """A new folder with its recipe; the id is the recipe's name, the time and a few random letters."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        run = RunFolder(home.run(f"{recipe.name}-{stamp}-{secrets.token_hex(2)}"))
        with disk_errors(run.path):
            run.path.mkdir(parents=True)
        write_atomic(run.path / "config.yaml", dump_recipe(recipe))
        run.set_status(state="queued", phase="", created_at=now())
        return run

    @staticmethod
    def open(home: Home, run_id: str) -> RunFolder:
        """The run of that id, or of the only id that starts with it."""
        if home.run(run_id).is_dir():
            return RunFolder(home.run(run_id))
        known = sorted(p.name for p in home.runs.iterdir()) if home.runs.is_dir() else []
        matching = [name for name in known if name.startswith(run_id)]
        if len(matching) == 1:
            return RunFolder(home.run(matching[0]))
        why = f"{len(matching)} runs start with it" if matching else f"no such run in {home.runs}"
        raise DraftbenchError(
            f"unknown run {run_id!r}",
            why,
            did_you_mean(run_id, matching or known)
            if known
            else "start one with `draftbench run recipes/quickstart.yaml`",
        )

    def recipe(self) -> Recipe:
        """The resolved recipe this run was made from."""
        return load_recipe(self.path / "config.yaml")

    def status(self) -> dict[str, Any]:
        """The status file, with `state` 'interrupted' where a running process is gone."""
        path = self.path / "status.json"
        raw: dict[str, Any] = read_json(path) if path.exists() else {"state": "unknown"}
        return {**raw, "state": effective_state(raw)}

    def set_status(self, **changes: Any) -> None:
        """Change some keys of the status file; the whole file is replaced atomically."""
        path = self.path / "status.json"
        old: dict[str, Any] = read_json(path) if path.exists() else {}
        write_json(path, {**old, **changes, "updated_at": now()})
        self._beat = time.monotonic()

    def heartbeat(self, progress: dict[str, Any]) -> None:
        """Tell how far the work is, every few seconds at most and whenever a phase begins."""
        if progress["done"] == 0 or time.monotonic() - self._beat > _HEARTBEAT_S:
            self.set_status(phase=progress["phase"], progress=progress)

    def emit(self, event: dict[str, Any]) -> None:
        """Append an event with its time."""
        append_line(self.path / "events.jsonl", {"at": now(), **event})

    def log(self, text: str) -> None:
        """Append a line for people, with its time."""
        with disk_errors(self.path), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Be the one process that works on this run; a second one is refused."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            status = self.status()
            raise DraftbenchError(
                f"run {self.id} is being worked on by process {status.get('pid')}",
                "two processes would overwrite each other's checkpoints",
                f"wait for it, or cancel it with `draftbench runs cancel {self.id}`",
            ) from None
        try:
            self.set_status(state="running", error=None, **this_process())
            yield
        finally:
            lock.release()

    @property
    def summary_path(self) -> Path:
        return self.path / "measure" / "summary.json"

    def summary(self) -> dict[str, Any]:
        """The measurement's summary; an error if the run was not measured yet."""
        if not self.summary_path.exists():
            raise DraftbenchError(
                f"run {self.id} has no measurement",
                f"its state is {self.status()['state']}",
                f"finish it with `draftbench run --resume {self.id}`",
            )
        found: dict[str, Any] = read_json(self.summary_path)
        return found
