"""Writing an export: the folder appears whole or not at all, and replaces nothing but an earlier export."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.paths import Home
from engine.stopping import keeping
from engine.untrusted.regular_files import printable

CARD = "README.md"
_TAG = "draftbench"  # in the model card's front matter: what is replaced must be an earlier export

_at_work: list[Path] = []  # temporary folders of this process


def write_folder(folder: Path, card: str, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Write an export: the files that `write` puts into an empty folder, and the model card.

    An existing folder is refused, unless `overwrite` and it holds an earlier export.
    """
    refuse_taken(folder, overwrite)
    with disk_errors(folder):
        temporary = _beside(folder)
        _at_work.append(temporary)
        try:
            new = temporary / "new"
            new.mkdir()
            write(new)
            (new / CARD).write_text(card, encoding="utf-8")
            for file in new.rglob("*"):  # safetensors writes for the owner alone; a server often is another user
                runs = file.is_dir() or file.suffix == ".sh"
                file.chmod(0o755 if runs else 0o644)
            with keeping():
                refuse_taken(folder, overwrite)  # something may have come there while this was written
                if folder.exists():
                    folder.rename(temporary / "old")
                new.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _at_work.remove(temporary)


def remove_half() -> None:
    """Remove what is half written, where the process is ended in the middle of it."""
    for temporary in _at_work:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(folder: Path) -> Path:
    """A temporary folder on the same disk, so that what it holds can be renamed to `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise DraftbenchError(
            f"cannot make {folder}: {error.strerror}", f"{folder.parent} is not a folder", "choose another --out"
        ) from error


def refuse_taken(folder: Path, overwrite: bool) -> None:
    """Raise DraftbenchError if an export to `folder` would destroy something or could not be written there, or if files
    could not name the folder."""
    if printable(folder) != str(folder):
        raise DraftbenchError(
            f"the name {printable(folder)} is not UTF-8", "the start script's settings could not name it", "rename it"
        )
    with disk_errors(folder):
        _refuse_place(folder)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        is_export = _is_export(folder)
    if not is_export:
        raise DraftbenchError(
            f"{folder} holds something other than an export of Draftbench",
            "an export replaces the whole folder",
            "choose another --out",
        )
    if not overwrite:
        raise DraftbenchError(
            f"{folder} is not empty", "an export replaces what is there", "choose another --out, or add --overwrite"
        )


def _refuse_place(folder: Path) -> None:
    """Raise DraftbenchError where no folder can appear: an export is written beside its folder and then renamed."""
    above = next((place for place in folder.parents if place.exists()), folder)
    if not above.is_dir():
        raise DraftbenchError(f"cannot make {folder}", f"{above} is not a folder", "choose another --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DraftbenchError(
            f"not allowed to write {folder}",
            f"{above}, in which the export is made, is not writable",
            "choose another --out, or correct its permissions",
        )
    if folder.is_mount():
        raise DraftbenchError(
            f"{folder} is a mount point", "an export appears as a whole new folder", f"give --out {folder / 'draft'}"
        )
    if folder.is_symlink() and not folder.exists():
        raise DraftbenchError(f"{folder} is a link to nothing", "no folder can appear there", "choose another --out")


def refuse_among_runs(home: Home, folder: Path) -> None:
    """Raise DraftbenchError for a folder among the runs, which would be read as a run."""
    if folder.resolve().is_relative_to(home.runs.resolve()):
        raise DraftbenchError(
            f"{folder} is inside the runs folder", "it would be read as a run", "choose another folder"
        )


def taken(home: Home, folder: Path, overwrite: bool) -> dict[str, str] | None:
    """What keeps an export from being written to `folder`, as a finding; None if nothing does."""
    try:
        refuse_among_runs(home, folder)
        refuse_taken(folder, overwrite)
    except DraftbenchError as error:
        return {"level": "refused", "what": error.what, "reason": error.why, "fix": error.fix}
    return None


def _is_export(folder: Path) -> bool:
    card = folder / CARD
    if not card.is_file():
        return False
    before, _, rest = card.read_text(encoding="utf-8", errors="replace").partition("---")
    return not before and _TAG in rest.partition("---")[0]
