"""What was worked out of many runs, kept on disk until one of them changes.

A kept result is a file in the home's folder `kept` that names the state of the runs, and of this program, which it was
worked out from. It is used for exactly that state. A file that is damaged, was edited or is of another state is made
again; so the folder can be removed at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
from pydantic import TypeAdapter, ValidationError

from engine.errors import DraftbenchError
from engine.fileio import DOCUMENT_BYTES, read_bounded, write_atomic
from engine.paths import PROJECT_ROOT, Home

_log = logging.getLogger("draftbench")
_ROOMS = ("config", "findings", "index", "measure", "records")  # of the engine
T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """The kept results of one state of a home's runs, or of those of one study."""

    folder: Path
    state: str  # of the runs and of this program: see `state_of`
    study: str | None = None

    def get(self, name: str, kind: TypeAdapter[T], make: Callable[[], T]) -> T:
        """The result as it was kept, or made now and kept. `kind`: how it is written as JSON and read back."""
        path = self.folder / f"{name}{_suffix(self.study)}.json"
        kept = self._read(path, kind)
        if kept is not None:
            return kept
        value = make()
        body = kind.dump_json(value)
        try:
            if len(body) < DOCUMENT_BYTES:
                write_atomic(path, self._head(body) + body)
        except (DraftbenchError, OSError) as error:  # a full disk costs time at the next visit, and no result
            _log.warning("findings could not be kept, and are worked out again at the next visit: %s", error)
        return value

    def _read(self, path: Path, kind: TypeAdapter[T]) -> T | None:
        try:
            head, _, body = read_bounded(path).partition(b"\n")
            return kind.validate_json(body) if head + b"\n" == self._head(body) else None
        except (FileNotFoundError, DraftbenchError, ValidationError):
            return None

    def _head(self, body: bytes) -> bytes:
        """The first line: what the result rests on, and a hash that tells a damaged or edited file."""
        return json.dumps({"state": self.state, "sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"


def kept_of(con: duckdb.DuckDBPyConnection, home: Home, study: str | None) -> Kept:
    """The kept results for the runs as the index holds them now."""
    return Kept(home.root / "kept", state_of(con, home), study)


def state_of(con: duckdb.DuckDBPyConnection, home: Home) -> str:
    """A hash that changes whenever a run is added, removed, finished or relabelled, or this program is another."""
    runs = con.execute("SELECT run_id, fingerprint FROM runs ORDER BY run_id").fetchall()
    facts = json.dumps([_program(), str(home.runs), runs])  # a study names recipes by their path
    return hashlib.sha256(facts.encode()).hexdigest()


@functools.cache
def _program() -> str:
    """A hash of the source files that results rest on."""
    files = sorted(path for room in _ROOMS for path in (PROJECT_ROOT / "engine" / room).glob("*.py"))
    files += sorted((PROJECT_ROOT / "workbench" / "findings").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _suffix(study: str | None) -> str:
    """A study's name may be no name of a file."""
    return "" if study is None else "-" + hashlib.sha256(study.encode()).hexdigest()[:16]
