"""The folders that Draftbench uses.

`DRAFTBENCH_HOME` holds a user's results (runs, captures, the index); the cache holds what can be fetched again (models,
packs) and is shared between homes.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.errors import DraftbenchError, boundary
from engine.untrusted.regular_files import printable

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_ENCODED_ID = re.compile(r"[A-Za-z0-9%][A-Za-z0-9._%-]*")  # of a folder that somebody else named


@dataclass(frozen=True)
class Home:
    """The folder of a user's results. No folder is created before something is written to it."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def captures(self) -> Path:
        return self.root / "captures"

    @property
    def index(self) -> Path:
        return self.root / "index.duckdb"

    @property
    def traces(self) -> Path:
        return self.root / "traces"

    def trace(self, trace_id: str) -> Path:
        """The file of a saved trace. Raises DraftbenchError for an id that could name a path outside `traces`."""
        if not _RUN_ID.fullmatch(trace_id) or ".." in trace_id:
            raise DraftbenchError(
                f"trace id {trace_id!r} is not a valid name",
                "a trace id names one file under traces/ and may not leave it",
                "open the trace from the list on the Replay page",
            )
        return self.traces / f"{trace_id}.json"

    def run(self, run_id: str) -> Path:
        """The folder of a run. Raises DraftbenchError for an id that could name a path outside `runs`."""
        name = urllib.parse.unquote_to_bytes(run_id) if "%" in run_id and _ENCODED_ID.fullmatch(run_id) else None
        folder = os.fsdecode(name) if name is not None else run_id
        plain = name is None and _RUN_ID.fullmatch(run_id) and ".." not in run_id
        if not plain and (name is None or not is_run_name(folder) or run_id_of(folder) != run_id):
            raise DraftbenchError(
                f"run id {run_id!r} is not a valid name",
                "a run id names one folder under runs/ and may not leave it",
                "use letters, digits, '.', '_' and '-'; `draftbench runs` lists the ids",
            )
        return self.runs / folder


def is_run_name(name: str) -> bool:
    """Whether an entry of `runs` may be a run: not if it is hidden, or would lead out of the folder."""
    return bool(name) and not name.startswith(".") and "/" not in name and "\0" not in name


def run_id_of(name: str) -> str:
    """The id of the run in the folder of that name; `Home.run` is the reverse.

    It is the name, with everything that an id cannot contain (blanks, brackets, bytes that are not UTF-8)
    percent-encoded, so that a folder that somebody copied or renamed is a run, and an id is harmless where it is shown.
    """
    if _RUN_ID.fullmatch(name) and ".." not in name:
        return name
    encoded = urllib.parse.quote(os.fsencode(name), safe="").replace("~", "%7E").replace("..", "%2E%2E")
    first = encoded[:1]
    plain = first.isalnum() or first in ("", "%")
    whole = encoded if plain else f"%{ord(first):02X}{encoded[1:]}"
    # a name that is only too long needs no encoding, so its first character is encoded to distinguish it from plain ids
    return whole if "%" in whole else f"%{ord(whole[0]):02X}{whole[1:]}"


def home() -> Home:
    """`DRAFTBENCH_HOME`, or the platform's folder for user data."""
    return Home(_chosen("DRAFTBENCH_HOME") or Path(platformdirs.user_data_path("draftbench")))


def cache_dir() -> Path:
    """`DRAFTBENCH_CACHE`, or the platform's cache folder: fetched files, shared by homes."""
    return _chosen("DRAFTBENCH_CACHE") or Path(platformdirs.user_cache_path("draftbench"))


def _chosen(variable: str) -> Path | None:
    """The folder that an environment variable names; None if it is not set. `~` is the user's own folder."""
    folder = os.environ.get(variable)
    if not folder:
        return None
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise DraftbenchError(
            f"{variable}={printable(folder)}: there is no such user here",
            "~NAME is the folder of the user NAME",
            f"set {variable} to the whole path of a folder",
        ) from None


def resolve_input(path: str, relative_to: Path | None = None) -> Path:
    """Find an input file or folder that a recipe or the command line names.

    A relative path is looked for in the working folder, beside the recipe, then in the project (for `sample_data/` and
    `recipes/`). Raises DraftbenchError if there is none, or if it is a device or a pipe, which may never end and cannot
    be read twice.
    """
    # A name with a zero byte, a long name, a link to itself, an unknown home: each raises another exception.
    with boundary(f"could not look for {path!a}", "check the path"):
        return _existing(path, relative_to)


def _existing(path: str, relative_to: Path | None) -> Path:
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [Path.cwd() / given]
    if not given.is_absolute():
        if relative_to is not None:
            places.append(relative_to / given)
        places.append(PROJECT_ROOT / given)
    for place in places:
        if place.is_file() or place.is_dir():
            return _nameable(place.resolve())
        if place.exists():
            raise DraftbenchError(
                f"{printable(path)} is neither a file nor a folder",
                "a device or a pipe may never end, and cannot be read twice",
                "save its output to a file, and name that file",
            )
    raise DraftbenchError(
        f"no such file or folder: {printable(path)}",
        "it was looked for in " + ", ".join(dict.fromkeys(printable(place.parent) for place in places)),
        "check the spelling, or give the absolute path",
    )


def _nameable(path: Path) -> Path:
    """Return the path if a run's config.yaml, which is UTF-8, can hold it."""
    if printable(path) != str(path):
        raise DraftbenchError(
            f"the name {printable(path)} is not UTF-8",
            "a recipe, and the record of a run, could not name it",
            "rename the file or the folder",
        )
    return path
