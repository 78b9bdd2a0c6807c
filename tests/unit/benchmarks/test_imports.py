"""Every script outside the packages takes from the project what is there: they run rarely, code moves."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from engine.paths import PROJECT_ROOT

SCRIPTS = sorted(
    path for folder in ("benchmarks", "docs", "sample_data") for path in (PROJECT_ROOT / folder).rglob("*.py")
)
_OURS = ("engine", "workbench", "tests", "benchmarks")


def _taken(module: ModuleType, name: str) -> object:
    """What `from module import name` gives; None if there is no such thing."""
    inner = f"{module.__name__}.{name}"
    is_module = hasattr(module, "__path__") and importlib.util.find_spec(inner) is not None
    return getattr(module, name, importlib.import_module(inner) if is_module else None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(PROJECT_ROOT).as_posix())
def test_what_a_script_takes_of_the_project_is_there(script: Path):
    nodes = list(ast.walk(ast.parse(script.read_text(encoding="utf-8"))))
    taken: dict[str, object] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in _OURS:
            module = importlib.import_module(str(node.module))
            taken |= {alias.asname or alias.name: _taken(module, alias.name) for alias in node.names}
    missing = [name for name, value in taken.items() if value is None]
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            holder = taken.get(node.value.id)
            if isinstance(holder, ModuleType) and _taken(holder, node.attr) is None:
                missing.append(f"{node.value.id}.{node.attr}")
    assert missing == []
