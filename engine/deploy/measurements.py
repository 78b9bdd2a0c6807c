"""A run's served measurements on disk: `served/NAME/measurement.json`, with the files that it was read from.

Small files are copied beside it, so that a figure can be traced to what the server wrote; of a large one its size and
hash are kept. A copy may hold answers: it stays in the run's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine.deploy.readers.documents import Document
from engine.errors import DraftbenchError
from engine.fileio import atomic_folder, disk_errors, write_atomic
from engine.records.served import SERVED_FOLDER, RawFile, ServedMeasurement

MOST_COPIED_BYTES = 4_000_000  # of all files of a measurement
MOST_MEASUREMENTS = 1_000  # of a run, that are listed
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_RAW = "raw"


@dataclass(frozen=True)
class Kept:
    """A measurement in a run's folder. `problem`: why it, or a part of it, could not be read; empty if all could."""

    name: str
    measurement: ServedMeasurement | None
    problem: str = ""


def check_name(name: str) -> str:
    """The name of a measurement. Raises DraftbenchError for one that could name a path elsewhere."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise DraftbenchError(
            f"{name!r} is not the name of a measurement",
            "it names a folder in the run's",
            "use letters, digits, '.', '_' and '-'",
        )
    return name


def check_free(run: Path, name: str) -> None:
    """Raise DraftbenchError for what is no name, or one that a measurement of the run has."""
    if os.path.lexists(run / SERVED_FOLDER / check_name(name)):
        raise DraftbenchError(
            f"there is a served measurement {name} already",
            "it is not replaced",
            "choose another --name, or remove it with `draftbench served remove`",
        )


def new_name(run: Path, server: str, now: datetime | None = None) -> str:
    """A name that is free: the server and the time."""
    stamp = f"{(now or datetime.now(UTC)):%Y%m%d-%H%M%S}"
    base = f"{re.sub(r'[^A-Za-z0-9._-]', '-', server).strip('-.') or 'server'}-{stamp}"
    taken = {kept.name for kept in kept_measurements(run)}
    return next(
        name for number in range(len(taken) + 1) if (name := f"{base}-{number}" if number else base) not in taken
    )


def keep(run: Path, name: str, measurement: ServedMeasurement, documents: Sequence[Document] = ()) -> ServedMeasurement:
    """Write a measurement into a run's folder, whole or not at all; returned with its files.

    If it was read from the files of another one, its notes say so: it is the same measurement twice. Raises
    DraftbenchError if there is one of that name.
    """
    check_free(run, name)
    folder = run / SERVED_FOLDER / name
    left, files = MOST_COPIED_BYTES, []
    for number, document in enumerate(documents, 1):
        kept_as = f"{_RAW}/{number}-{_plain(document.name)}" if len(document.raw) <= left else None
        left -= len(document.raw) if kept_as else 0
        digest = hashlib.sha256(document.raw).hexdigest()
        files.append(RawFile(name=document.name, size_bytes=len(document.raw), sha256=digest, kept_as=kept_as))
    notes = [*measurement.notes, *_same_files(run, files)]
    whole = measurement.model_copy(update={"files": files, "notes": notes})
    with disk_errors(folder):
        folder.parent.mkdir(exist_ok=True)
        with atomic_folder(folder) as new:
            for document, file in zip(documents, files, strict=True):
                if file.kept_as:
                    write_atomic(new / file.kept_as, document.raw)
            whole.write(new)
    return whole


def _same_files(run: Path, files: Sequence[RawFile]) -> list[str]:
    digests = [file.sha256 for file in files]
    for kept in kept_measurements(run):
        if digests and kept.measurement and [file.sha256 for file in kept.measurement.files] == digests:
            return [f"it was read from the same files as {kept.name}, so the two are one measurement"]
    return []


def kept_measurements(run: Path) -> list[Kept]:
    """The served measurements of a run, by name; a damaged one with what is wrong."""
    try:
        with os.scandir(run / SERVED_FOLDER) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and _NAME.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DraftbenchError(
            f"could not list {run / SERVED_FOLDER}: {error.strerror}", "", "correct its permissions"
        ) from error
    return [_kept(run, name) for name in names[:MOST_MEASUREMENTS]]


def one_measurement(run: Path, name: str) -> Kept:
    """One of them. Raises DraftbenchError if there is none of that name."""
    known = [kept.name for kept in kept_measurements(run)]
    if name not in known:
        raise DraftbenchError(
            f"there is no served measurement {name!r}",
            f"the run has {', '.join(known) or 'none'}",
            "import one with `draftbench served import`, or ask a server with `draftbench served probe`",
        )
    return _kept(run, name)


def remove_measurement(run: Path, name: str) -> None:
    """Delete a measurement with its copies. Raises DraftbenchError if there is none of that name."""
    one_measurement(run, name)
    folder = run / SERVED_FOLDER / name
    with disk_errors(folder):
        hidden = folder.with_name(f".{name}.removed-{os.getpid()}")
        folder.rename(hidden)
        shutil.rmtree(hidden)
        with contextlib.suppress(OSError):  # others are in it
            folder.parent.rmdir()


def _kept(run: Path, name: str) -> Kept:
    try:
        measurement, left_out = ServedMeasurement.load(run / SERVED_FOLDER / name)
    except DraftbenchError as error:
        return Kept(name, None, f"{error.what}: {error.why}" if error.why else error.what)
    if measurement is None:
        return Kept(name, None, "it has no measurement.json")
    return Kept(name, measurement, "; ".join(left_out))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-")[-80:] or "file"
