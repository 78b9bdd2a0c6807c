"""What a name of a model stands for is said without its weights, and what cannot be a target is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.planning.recognise import recognise
from tests.conftest import byte_tokenizer


def test_a_folder_is_recognised_with_its_size(tiny_target_folder: Path):
    seen = recognise(f" {tiny_target_folder} ")
    assert (seen.kind, seen.here, seen.layers, seen.ids) == ("folder", True, 4, 258)
    assert "LlamaForCausalLM, 4 layers" in seen.words
    assert "chat template" in seen.words


def test_a_folder_without_weights_or_chat_template_is_refused(tiny_target_folder: Path, tmp_path: Path):
    silent = Path(shutil.copytree(tiny_target_folder, tmp_path / "silent"))
    (silent / "chat_template.jinja").unlink(missing_ok=True)
    byte_tokenizer(None).save_pretrained(silent)
    with pytest.raises(DraftbenchError, match="has no chat template"):
        recognise(str(silent))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DraftbenchError, match="is not a model"):
        recognise(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("name", "kind", "model"),
    [
        ("some-org/Some-Model", "hub model", "hub:some-org/Some-Model"),
        ("hub:some-org/Some-Model", "hub model", "hub:some-org/Some-Model"),
        ("http://127.0.0.1:8000/v1", "server", "http://127.0.0.1:8000/v1"),
        ("asset:smollm2-135m-instruct", "packaged model", "asset:smollm2-135m-instruct"),
    ],
)
def test_what_is_not_here_is_named_and_not_fetched(name: str, kind: str, model: str):
    seen = recognise(name)
    assert (seen.kind, seen.model, seen.here, seen.layers) == (kind, model, False, None)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a b c", "smollm", "asset:nothing"])
def test_a_name_of_nothing_is_refused(name: str):
    with pytest.raises(DraftbenchError):
        recognise(name)
