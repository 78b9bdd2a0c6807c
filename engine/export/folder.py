"""Writing an export: the folder appears whole or not at all, and replaces nothing but an earlier export."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
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
    """Raise DraftbenchError if an export to `folder` would destroy something, or if files could not name the folder."""
    if printable(folder) != str(folder):
        raise DraftbenchError(
            f"the name {printable(folder)} is not UTF-8", "the start script's settings could not name it", "rename it"
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not _is_export(folder):
        raise DraftbenchError(
            f"{folder} holds something other than an export of Draftbench",
            "an export replaces the whole folder",
            "choose another --out",
        )
    if not overwrite:
        raise DraftbenchError(
            f"{folder} is not empty", "an export replaces what is there", "choose another --out, or add --overwrite"
        )


def _is_export(folder: Path) -> bool:
    card = folder / CARD
    if not card.is_file():
        return False
    before, _, rest = card.read_text(encoding="utf-8", errors="replace").partition("---")
    return not before and _TAG in rest.partition("---")[0]
