"""What a node must have in common with the machine that sends it work: the same code, libraries and files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine.config.reading import map_paths
from engine.config.schema import Recipe
from engine.paths import PROJECT_ROOT
from engine.runs.provenance import versions


@cache
def code_hash() -> str:
    """Hex sha256 of the engine's source files: results of two checkouts with one version number may differ."""
    digest = hashlib.sha256()
    for path in sorted((PROJECT_ROOT / "engine").rglob("*.py")):
        digest.update(path.relative_to(PROJECT_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def own_build() -> dict[str, str]:
    """Versions of this machine's Python, Draftbench and libraries, and the hash of Draftbench's code."""
    return {**versions(), "code": code_hash()}


def differing_build(theirs: Mapping[str, str], node: str) -> dict[str, str] | None:
    """Why a node may not work for the machine of build `theirs`, as the parts of a DraftbenchError; None if it may.

    To be called on the node.
    """
    mine = own_build()
    names = [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name) and name != "code"]
    if not names and theirs.get("code") == mine["code"]:
        return None
    absent = "not installed"
    words = [f"{name} {mine.get(name, absent)} there, {theirs.get(name, absent)} here" for name in names]
    listed = ", ".join(words) or "other source files of the same Draftbench version"
    return {
        "what": f"node {node} has another build: {listed}",
        "why": "results would depend on the node that happened to make them",
        "fix": "install the same versions on every node (docs/cluster.md), or give a runtime_env",
    }


def local_files(recipe: Recipe) -> list[str]:
    """The absolute paths that a recipe names: they must be the same files wherever it is worked on."""
    paths: list[str] = []

    def keep(path: str, kind: str) -> str:
        if os.path.isabs(path):
            paths.append(path)
        return path

    map_paths(recipe.model_dump(mode="json"), keep)
    return list(dict.fromkeys(paths))


def file_marks(paths: list[str]) -> dict[str, int]:
    """Path -> size in bytes of a file, -1 for a folder; what is missing is left out."""
    marks = {}
    for name in paths:
        path = Path(name)
        if path.is_file():
            marks[name] = path.stat().st_size
        elif path.is_dir():
            marks[name] = -1
    return marks


def missing_files(wanted: Mapping[str, int], node: str) -> dict[str, Any] | None:
    """Why a recipe that names these files (`file_marks`) cannot be worked on here: the parts of a DraftbenchError."""
    here = file_marks(list(wanted))
    for path, mark in wanted.items():
        if path not in here:
            what = f"node {node} has no {path}"
        elif here[path] != mark:
            what = f"{path} on node {node} is not the file that it is here"
        else:
            continue
        fix = "keep the files that recipes name on storage that every node has at the same path, or copy them there"
        return {"what": what, "why": "the recipe names it", "fix": fix}
    return None
