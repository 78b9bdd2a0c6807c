"""The studies of a home: a copy of each recipe as last submitted, so that a later call can show or continue it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import write_atomic
from engine.paths import PROJECT_ROOT, Home, resolve_input
from engine.study.spec import StudySpec, dump_study, load_study


def keep(home: Home, spec: StudySpec) -> Path:
    """Note the study in the home; one of the same name is replaced."""
    path = _folder(home) / f"{spec.name}.yaml"
    write_atomic(path, dump_study(spec))
    return path


def known(home: Home) -> list[str]:
    """Names of the home's studies, the one submitted last first."""
    return [path.stem for path in sorted(_kept(home), key=lambda path: (-path.stat().st_mtime, path.name))]


def find(home: Home, name: str, settings: Sequence[str] = ()) -> StudySpec:
    """A study by its name, of the home or one that ships, or in a recipe file, with `key=value` settings over it."""
    named = {path.stem: path for path in (*shipped(), *_kept(home))}  # the home's own goes before one that ships
    if name in named:
        return load_study(named[name], settings)
    try:
        path = resolve_input(name)
    except DraftbenchError as error:
        if "/" in name or name.endswith((".yaml", ".yml")):
            raise
        why = f"none of that name was started in this home ({_folder(home)}), none ships, and no such file is here"
        raise DraftbenchError(f"no study {name!r}", why, did_you_mean(name, sorted(named))) from error
    return load_study(path, settings)


def shipped() -> list[Path]:
    """The recipes of the studies that come with the project."""
    return sorted((PROJECT_ROOT / "recipes" / "studies").glob("*.yaml"))


def _kept(home: Home) -> list[Path]:
    return [path for path in _folder(home).glob("*.yaml") if not path.name.startswith(".")]


def _folder(home: Home) -> Path:
    return home.root / "studies"
