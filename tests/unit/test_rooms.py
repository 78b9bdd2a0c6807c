"""Every room names its files, with a line for each, in the docstring of its `__init__.py`: where a newcomer looks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from engine.paths import PROJECT_ROOT

ROOMS = sorted(path.parent for part in ("engine", "workbench") for path in (PROJECT_ROOT / part).rglob("__init__.py"))


def listed(room: Path) -> list[str]:
    """The names at the beginning of the docstring's lines, each two spaces or more before what it holds."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return [line.split("  ")[0] for line in docstring.splitlines() if "  " in line]


def contents(room: Path) -> list[str]:
    """Modules by name, folders with a slash, other files in full."""
    names = []
    for path in room.iterdir():
        if path.is_dir():
            names += [f"{path.name}/"] if (path / "__init__.py").exists() else []
        elif path.name not in ("__init__.py", "py.typed"):
            names.append(path.stem if path.suffix == ".py" else path.name)
    return names


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(PROJECT_ROOT).as_posix())
def test_a_room_lists_each_of_its_files_once(room: Path):
    assert sorted(listed(room)) == sorted(contents(room))


def test_a_file_that_is_not_listed_would_be_seen(tmp_path: Path):
    (tmp_path / "__init__.py").write_text('"""A room.\n\nloss   a loss\nmodes/ offline, online\n"""\n')
    (tmp_path / "loss.py").touch()
    (tmp_path / "other.py").touch()
    assert listed(tmp_path) == ["loss"]
    assert sorted(contents(tmp_path)) == ["loss", "other"]
