"""The studies of a home: a copy of each recipe as it was submitted last, so that a later call can show or continue it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import write_atomic
from engine.paths import Home, resolve_input
from engine.study.spec import StudySpec, dump_study, load_study


def keep(home: Home, spec: StudySpec) -> Path:
    """Note the study in the home; one of the same name is replaced."""
    path = _folder(home) / f"{spec.name}.yaml"
    write_atomic(path, dump_study(spec))
    return path


def known(home: Home) -> list[str]:
    """Names of the home's studies, the one submitted last first."""
    files = [path for path in _folder(home).glob("*.yaml") if not path.name.startswith(".")]
    return [path.stem for path in sorted(files, key=lambda path: (-path.stat().st_mtime, path.name))]


def find(home: Home, name: str, settings: Sequence[str] = ()) -> StudySpec:
    """A study of the home by its name, or one in a recipe file, with `key=value` settings over it."""
    if name in known(home):
        return load_study(_folder(home) / f"{name}.yaml", settings)
    try:
        path = resolve_input(name)
    except DraftbenchError as error:
        if "/" in name or name.endswith((".yaml", ".yml")):
            raise
        names = known(home)
        fix = did_you_mean(name, names) if names else "start one with `draftbench study recipes/studies/smoke.yaml`"
        raise DraftbenchError(f"no study {name!r}", f"it is not in {_folder(home)}", fix) from error
    return load_study(path, settings)


def _folder(home: Home) -> Path:
    return home.root / "studies"
