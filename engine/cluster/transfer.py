"""A run folder, and captures, that are made in a node's own home and come home while the work goes on.

What comes home is a state that a local run could have been killed in: files as they all stood at one moment, logs and
captures perhaps a little longer. So whatever a lost node leaves at home, a resume goes on from it.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.distill.checkpoint import FOLDER as CHECKPOINTS
from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_atomic
from engine.paths import Home
from engine.records import files

GROWING = ("events.jsonl", "log.txt", "output.txt", "answers.jsonl", "signal.bin")  # appended to, so safe to cut
_KEPT_AT_HOME = (files.LABELS, files.STOP)  # a person changes these while the run is worked on
_WINDOW = 65_536


@dataclass(frozen=True)
class Piece:
    """Bytes of a file: all of it with offset 0, else what follows the first `offset` bytes."""

    path: str  # relative to the home
    offset: int
    data: bytes


@dataclass(frozen=True)
class Changes:
    """What changed since the last look. `checkpoints`: the names of those that exist now; None if that is not known."""

    pieces: list[Piece]
    checkpoints: list[str] | None


@dataclass(frozen=True)
class _Seen:
    """A file as it was when it was sent."""

    inode: int
    size: int
    changed_ns: int
    window: int  # crc32 of its last bytes: a file that was cut and has grown again is sent whole


@dataclass
class Outbox:
    """The changes of one run's folder, and of the captures beside it, in the home of a node."""

    home: Home
    run_id: str
    seen: dict[str, _Seen] = field(default_factory=dict)

    def mark_as_sent(self) -> None:
        """Take everything that is there now as known at home."""
        for path in self._files():
            with open(self.home.root / path, "rb") as file:
                stat = os.fstat(file.fileno())
                self._note(path, file.fileno(), stat, stat.st_size)

    def changes(self) -> Changes:
        """What is new. If files were replaced while they were read, only what grows is sent, the rest at the next look.

        What a log or a stream of answers says must not be older than the checkpoint beside it, so it is read after it.
        """
        known, before = dict(self.seen), self._files()
        settled = [path for path in before if Path(path).name not in GROWING and not _is_status(path)]
        live = sorted((path for path in before if path not in settled), key=_read_rank)
        changed = {path: seen for path, seen in before.items() if _differs(self.seen.get(path), seen)}
        pieces, whole = [], True
        try:
            pieces = [self._piece(path) for path in settled if path in changed]
        except FileNotFoundError:
            whole = False
        growth = [self._piece(path) for path in live if path in changed and (self.home.root / path).exists()]
        after = self._files()
        if not whole or {p: before[p] for p in settled} != {p: after[p] for p in after if p not in live}:
            growth = [
                piece for piece in growth if not _is_status(piece.path)
            ]  # "done" must not come before its results
            self.seen = {**known, **{piece.path: self.seen[piece.path] for piece in growth}}
            return Changes(growth, None)
        return Changes([*pieces, *growth], self._checkpoints(before))

    def _piece(self, path: str) -> Piece:
        """The file's news, which are taken as sent."""
        with open(self.home.root / path, "rb") as file:
            stat, last = os.fstat(file.fileno()), self.seen.get(path)
            grows = Path(path).name in GROWING and last is not None and last.inode == stat.st_ino
            offset = last.size if grows and last and stat.st_size >= last.size else 0
            if offset and last and _window(file.fileno(), offset) != last.window:
                offset = 0
            data = os.pread(file.fileno(), stat.st_size - offset, offset)
            while offset + len(data) < stat.st_size:  # a read gives two gigabytes at most
                more = os.pread(file.fileno(), stat.st_size - offset - len(data), offset + len(data))
                if not more:
                    break
                data += more
            self._note(path, file.fileno(), stat, offset + len(data))
        return Piece(path, offset, data)

    def _note(self, path: str, handle: int, stat: os.stat_result, size: int) -> None:
        self.seen[path] = _Seen(stat.st_ino, size, stat.st_mtime_ns, _window(handle, size))

    def _files(self) -> dict[str, tuple[int, int, int]]:
        """Inode, size and time of every regular file of the run and its captures; half-made ones are hidden."""
        found = {}
        for folder in (self.home.run(self.run_id), self.home.captures):
            for path in visible_files(folder):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                found[path.relative_to(self.home.root).as_posix()] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    def _checkpoints(self, paths: Iterable[str]) -> list[str]:
        prefix = f"runs/{self.home.run(self.run_id).name}/{CHECKPOINTS}/"
        return sorted({path.removeprefix(prefix).split("/")[0] for path in paths if path.startswith(prefix)})


def visible_files(folder: Path) -> list[Path]:
    """The regular files in a folder, at any depth, that are not hidden; what a person edits at home is left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and not path.is_symlink()
        and not (path.parent == folder and path.name in _KEPT_AT_HOME)
    ]


def bundle(folder: Path) -> dict[str, bytes]:
    """A folder's files by their path in it, for a node to lay out."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in visible_files(folder)}


def lay_out(bundled: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of a bundle into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in bundled.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def bring_home(home: Home, run_id: str, changes: Changes, *, refused: Iterable[str] = ()) -> None:
    """Write a node's changes into the home, in an order in which a kill at any moment leaves what can be resumed.

    `refused`: addresses of captures that another process makes at home. One that is finished there is left as it is.
    """
    folder, left = home.run(run_id), set(refused)
    prefix = f"runs/{folder.name}/"
    checkpoints: dict[str, list[Piece]] = {}
    for piece in sorted(changes.pieces, key=lambda piece: _write_rank(piece.path)):
        parts = piece.path.split("/")
        if ".." in parts or not (piece.path.startswith(prefix) or (parts[0] == "captures" and len(parts) == 3)):
            raise DraftbenchError(f"a node sent the file {piece.path}", "it belongs to no run of its own", "")
        if parts[0] == "captures":
            place = home.captures / parts[1]
            if parts[1] not in left and not (place / "done.json").exists():
                _write(home.root / piece.path, piece)
        elif parts[2] == CHECKPOINTS:
            checkpoints.setdefault(parts[3], []).append(piece)
        else:
            if _is_status(piece.path) and checkpoints:
                _keep_checkpoints(folder, checkpoints, changes.checkpoints)
                checkpoints = {}
            _write(home.root / piece.path, piece)
    _keep_checkpoints(folder, checkpoints, changes.checkpoints)


def _keep_checkpoints(folder: Path, new: Mapping[str, list[Piece]], existing: list[str] | None) -> None:
    """Put new checkpoints in their place, each whole or not at all; then drop those that the node has dropped."""
    place = folder / CHECKPOINTS
    with disk_errors(place):
        for name, pieces in new.items():
            begun = place / f".{name}.new"
            shutil.rmtree(begun, ignore_errors=True)
            for piece in pieces:
                write_atomic(begun / Path(piece.path).name, piece.data)
            shutil.rmtree(place / name, ignore_errors=True)
            begun.rename(place / name)
        if existing is not None and place.is_dir():
            for path in place.iterdir():
                if not path.name.startswith(".") and path.name not in existing:
                    shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, piece: Piece) -> None:
    if piece.offset == 0:
        write_atomic(path, piece.data)
        return
    with disk_errors(path), open(path, "r+b") as file:
        if file.seek(0, os.SEEK_END) < piece.offset:
            raise DraftbenchError(f"{path} is shorter than it was", "a node sent what follows", "resume the run")
        file.truncate(piece.offset)
        file.seek(piece.offset)
        file.write(piece.data)


def _window(handle: int, end: int) -> int:
    start = max(0, end - _WINDOW)
    return zlib.crc32(os.pread(handle, end - start, start))


def _differs(seen: _Seen | None, stat: tuple[int, int, int]) -> bool:
    return seen is None or (seen.inode, seen.size, seen.changed_ns) != stat


def _is_status(path: str) -> bool:
    parts = path.split("/")
    return parts[0] == "runs" and parts[2:] == [files.STATUS]


def _read_rank(path: str) -> int:
    """Lines before the signal that they point to: the signal may be ahead of them, never behind."""
    return {"answers.jsonl": 0, "signal.bin": 1}.get(Path(path).name, 2)


def _write_rank(path: str) -> int:
    """What points to something is written after it; that the run is done is said last."""
    name = Path(path).name
    if _is_status(path):
        return 9
    if path.startswith("captures/"):
        return {"answers.jsonl": 1, "done.json": 2}.get(name, 0)
    if path.endswith("/" + files.SUMMARY):
        return 8
    if name == files.TRAINING:
        return 7
    if name == "answers.jsonl":
        return 4
    return 5 if name.endswith(".json") else 3
