"""The identity of a recipe: a hash of everything that changes the draft or its exact acceptance, and nothing else."""

from __future__ import annotations

import filecmp
from functools import lru_cache
from pathlib import Path

from engine.config.decisive import decisive
from engine.config.reading import map_paths
from engine.config.schema import Recipe
from engine.fileio import content_hash
from engine.paths import PROJECT_ROOT

_OURS = ("sample_data", "recipes")  # folders of the project that recipes name


def identity(recipe: Recipe) -> str:
    """Hex hash of the recipe without labels, unused keys and keys that change no exact rate.

    A path into the project counts as relative to it, also if it was written in another checkout.
    """
    values = recipe.model_dump(mode="json")
    return content_hash(map_paths(decisive(values), lambda path, kind: project_path(path)))


def project_path(name: str) -> str:
    """An absolute path to what the project ships, relative to the project; anything else as it is.

    A path in another checkout counts if the same file is here, or if that checkout is gone or elsewhere.
    """
    if not name.startswith("/"):
        return name
    path = Path(name)
    if path.is_relative_to(PROJECT_ROOT):
        return path.relative_to(PROJECT_ROOT).as_posix()
    for number, part in reversed(list(enumerate(path.parts))):
        ours = Path(*path.parts[number:])
        if part in _OURS and (PROJECT_ROOT / ours).exists() and (not path.exists() or _same(path, PROJECT_ROOT / ours)):
            return ours.as_posix()
    return name


@lru_cache(maxsize=256)
def _same(a: Path, b: Path) -> bool:
    """Whether two files, or all files in two folders, hold the same bytes."""
    if a.is_file() and b.is_file():
        return filecmp.cmp(a, b, shallow=False)
    files = [sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()) for root in (a, b)]
    return files[0] == files[1] and all(filecmp.cmp(a / file, b / file, shallow=False) for file in files[0])
