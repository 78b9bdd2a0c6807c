"""Every benchmark, and every script of the docs, takes from the project what is there: they run rarely, code moves."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

from engine.paths import PROJECT_ROOT

SCRIPTS = sorted([*(PROJECT_ROOT / "benchmarks").rglob("*.py"), *(PROJECT_ROOT / "docs").glob("*.py")])
_OURS = ("engine", "workbench", "tests", "benchmarks")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(PROJECT_ROOT).as_posix())
def test_what_a_script_imports_is_there(script: Path):
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.level or (node.module or "").split(".")[0] not in _OURS:
            continue
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            is_there = hasattr(module, alias.name) or (
                hasattr(module, "__path__") and importlib.util.find_spec(inner) is not None
            )
            missing += [] if is_there else [inner]
    assert missing == []
