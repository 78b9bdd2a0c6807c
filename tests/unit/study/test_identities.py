"""Identities made before the schema's fields had marks: the shipped runs still hold the cells of the first study."""

from __future__ import annotations

import hashlib
import json

import pytest

from engine.config.identity import identity
from engine.config.reading import load_recipe
from engine.paths import PROJECT_ROOT, home
from engine.study.cells import expand
from engine.study.spec import load_study

# sha256 of the JSON of all of them; of the runs, then of the cells by name.
RUNS = "fa8849b0a1aa982c34a090d90edf697f9fdad7431d1f5d60f831371ecec6ab4f"
CELLS = "63429b19a74c3dcd4008f53985ff4ad1fc95347a56b6473b46236270d32de66e"


def digest(keys: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


@pytest.mark.slow
def test_runs_made_before_are_the_same_cells():
    files = (PROJECT_ROOT / "sample_data" / "runs").glob("*/config.yaml")
    runs = {path.parent.name: identity(load_recipe(path)) for path in files}
    cells = {c.name: c.key for c in expand(load_study(PROJECT_ROOT / "recipes/studies/first.yaml"), home()).cells}
    assert set(cells.values()) <= set(runs.values())
    assert (digest(runs), digest(cells)) == (RUNS, CELLS)
