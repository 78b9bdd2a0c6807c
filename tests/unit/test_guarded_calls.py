"""What only one place may do, since that place has the guard: a second caller would go round it without a word."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from engine.paths import PROJECT_ROOT

SOURCES = [path for part in ("engine", "workbench", "pages") for path in sorted((PROJECT_ROOT / part).rglob("*.py"))]

WRITTEN_GGUF = {"engine/export/gguf.py"}  # a file that was just written, read back
# Called name -> the modules that may call it, each of which guards the call.
PLACES = {
    "apply_chat_template": {"engine/chat/template_date.py"},  # pinned date, limit of time
    "target.generate": {"engine/decode/bare.py"},  # without a model's own settings
    "model.generate": set[str](),
    "yaml.safe_load": set[str](),
    "yaml.load": set[str](),  # engine/untrusted/yaml_text.py has the limits
    "yaml.parse": {"engine/untrusted/yaml_text.py"},
    "torch.load": set[str](),  # pickles run code
    "AutoConfig.from_pretrained": {"engine/models/folder.py", "engine/models/gguf.py", *WRITTEN_GGUF},
    "AutoTokenizer.from_pretrained": {"engine/models/tokenizer.py", "engine/models/gguf.py"},
    "AutoModelForCausalLM.from_pretrained": {
        "engine/models/load.py",
        "engine/models/gguf.py",
        "engine/export/huggingface.py",  # of a folder that was just written
        "engine/export/apart.py",  # the same
        *WRITTEN_GGUF,
    },
    "GenerationConfig.from_pretrained": {"engine/chat/turns.py"},
    "PeftConfig.from_pretrained": {"engine/models/adapter.py", "engine/export/apart.py"},
    "snapshot_download": {"engine/models/locate.py"},
}


def calls_in(path: Path) -> set[str]:
    """Dotted names of what a module calls, and the last part of each alone."""
    named = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    }
    return named | {name.rpartition(".")[2] for name in named}


@pytest.fixture(scope="module")
def called() -> dict[str, set[str]]:
    return {path.relative_to(PROJECT_ROOT).as_posix(): calls_in(path) for path in SOURCES}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_what_has_a_guard_is_called_where_the_guard_is(name: str, called: dict[str, set[str]]):
    assert {module for module, names in called.items() if name in names} == PLACES[name]


@pytest.mark.slow
def test_code_of_strangers_is_never_trusted_by_a_constant():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert not (isinstance(node.value, ast.Constant) and node.value.value is True), path
