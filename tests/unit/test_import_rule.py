"""Imports point one way: pages -> workbench -> engine, and inside the engine from the command line down."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from engine.paths import PROJECT_ROOT

# A module may import only what stands below its own line; modules on one line do not know each other.
# A package's modules may import each other. A new package gets its place here.
ENGINE_LAYERS = [
    {"__main__"},
    {"cli"},
    {"deploy"},
    {"explore", "export", "findings", "magpie", "slices", "study", "traces", "tune"},
    {"planning"},
    {"cluster"},
    {"jobs"},
    {"runs"},
    {"index"},
    {"distill", "served"},
    {"measure"},
    {"capture"},
    {"decode"},
    {"logs"},
    {"data", "models", "records"},
    {"chat", "packages"},
    {"config"},
    {"paths", "progress", "ranks", "stopping"},
    {"catalogue"},
    {"fileio"},
    {"untrusted"},
    {"errors", "numbers"},
]
INTERFACE_LIBRARIES = {"streamlit", "gradio", "plotly", "uvicorn", "starlette", "fastapi"}


@cache
def imports(path: Path, module: str) -> set[str]:
    """Dotted names a module imports anywhere in its body, functions included; relative ones resolved."""
    names: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            # `from engine import x` and `from engine.runs import x` name modules in their last part
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def modules(folder: str) -> dict[str, Path]:
    """Dotted name -> file of every module under a top-level folder."""
    modules_by_name = {}
    for path in sorted((PROJECT_ROOT / folder).rglob("*.py")):
        parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
        modules_by_name[".".join(part for part in parts if part != "__init__")] = path
    return modules_by_name


def layer(name: str) -> int:
    """Height of an engine part by its first name below `engine`, 0 the lowest."""
    for height, parts in enumerate(reversed(ENGINE_LAYERS)):
        if name in parts:
            return height
    raise AssertionError(f"engine.{name} has no place in ENGINE_LAYERS")


def engine_part(dotted: str) -> str | None:
    """The part of the engine a dotted import belongs to; None for others and for `engine` itself."""
    first, _, rest = dotted.partition(".")
    part = rest.partition(".")[0]
    return part if first == "engine" and part and not part.startswith("__version") else None


def violations(module: str, path: Path) -> list[str]:
    mine = engine_part(module)
    if mine is None:
        return []
    return [
        f"{module} imports {dotted}"
        for dotted in sorted(imports(path, module))
        if (other := engine_part(dotted)) and other != mine and layer(other) >= layer(mine)
    ]


def test_every_module_of_the_engine_imports_only_what_stands_below_it():
    assert [line for module, path in modules("engine").items() for line in violations(module, path)] == []


def test_the_rule_sees_an_import_upwards(tmp_path: Path):
    source = "from engine import cli\ndef f():\n    from engine.runs.folder import RunFolder\nimport engine.errors\n"
    (tmp_path / "x.py").write_text(source)
    assert violations("engine.models.x", tmp_path / "x.py") == [
        "engine.models.x imports engine.cli",
        "engine.models.x imports engine.runs.folder.RunFolder",
    ]
    (tmp_path / "y.py").write_text("from ..distill import losses\nfrom . import suite\n")
    assert violations("engine.measure.y", tmp_path / "y.py") == ["engine.measure.y imports engine.distill.losses"]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("engine", INTERFACE_LIBRARIES | {"workbench", "pages"}), ("workbench", {"pages"})],
)
def test_nothing_below_the_browser_knows_of_it(folder: str, forbidden: set[str]):
    wrong = {
        f"{module} imports {dotted}"
        for module, path in modules(folder).items()
        for dotted in imports(path, module)
        if dotted.partition(".")[0] in forbidden
    }
    assert not wrong


def test_pages_are_doors_into_the_workbench():
    sources = {dotted for module, path in modules("pages").items() for dotted in imports(path, module)}
    assert sources == {f"workbench.{module.removeprefix('pages.')}.page" for module in modules("pages")}


def test_pages_leave_models_and_tables_to_the_layers_below():
    wrong = {
        f"{module} imports {dotted}"
        for module, path in modules("workbench").items()
        if module.endswith(".page")
        for dotted in imports(path, module)
        if dotted.partition(".")[0] in {"torch", "transformers", "duckdb"}
    }
    assert not wrong


def test_pages_is_no_importable_package():
    assert not (PROJECT_ROOT / "pages" / "__init__.py").exists()
