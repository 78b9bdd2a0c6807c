"""Whether a node sees the home of the machine that sends it work, and where it works if it does not."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_atomic
from engine.paths import Home

_TOKEN = "places/token"  # in the home; its content is the home's own
_NODE_HOME = "DRAFTBENCH_NODE_HOME"


def home_token(home: Home) -> str:
    """What tells this home from any other: a node that reads it in the same place sees the same home."""
    path = home.root / _TOKEN
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), FileLock(f"{path}.lock"):
        if not path.exists():
            write_atomic(path, secrets.token_hex(16))
        return path.read_text()


def sees_home(root: Path, token: str) -> bool:
    """Whether this node may work in the home itself: it sees it, and was given no folder of its own to work in."""
    try:
        return _NODE_HOME not in os.environ and (root / _TOKEN).read_text() == token
    except OSError:
        return False


def node_folder(token: str) -> Path:
    """A folder of this node for work for a home that it does not see; nobody else can read it.

    Raises DraftbenchError if another user made it.
    """
    base = os.environ.get(_NODE_HOME) or Path(tempfile.gettempdir()) / f"draftbench-{os.getuid()}"
    folder = Path(base) / token[:16]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise DraftbenchError(f"{folder} belongs to another user", "it could be read there", f"set {_NODE_HOME}")
    return folder
