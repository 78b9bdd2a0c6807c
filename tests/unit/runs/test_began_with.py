"""A run goes on with the target that it began with: other weights or another template in its place are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.models.locate import model_files
from engine.paths import home
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder
from engine.runs.session import Session, open_session
from tests.conftest import CHATML, byte_tokenizer, tiny_llama


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def save_target(folder: Path, *, seed: int = 0, template: str = CHATML) -> None:
    """A target whose layers depend on `seed`; its embeddings and head do not."""
    import torch

    model, same = tiny_llama(seed=seed), tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(same.get_input_embeddings().weight)
        model.get_output_embeddings().weight.copy_(same.get_output_embeddings().weight)
    model.save_pretrained(folder)
    byte_tokenizer(template).save_pretrained(folder)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    save_target(tmp_path / "target")
    for side in ("train", "heldout"):
        (tmp_path / f"{side}.jsonl").write_text("\n".join(json.dumps({"prompt": f"{side} {i}"}) for i in range(3)))
    prompts = {side: str(tmp_path / f"{side}.jsonl") for side in ("train", "heldout")}
    return RunFolder.create(home(), parse_recipe({"target": str(tmp_path / "target"), "prompts": prompts}))


def opened(run: RunFolder, progress: Progress | None = None) -> Session:
    return open_session(home(), run, run.recipe(), progress or Heard())


def refusal(run: RunFolder) -> DraftbenchError:
    with pytest.raises(DraftbenchError) as refused:
        opened(run)
    return refused.value


@pytest.mark.slow
def test_other_layers_under_the_same_embeddings_are_refused_by_name_of_the_file(run: RunFolder, tmp_path: Path):
    first = opened(run).target
    opened(run)
    save_target(tmp_path / "target", seed=5)
    error = refusal(run)
    assert error.what.endswith("is not the one it began with: model.safetensors has changed")
    assert "start a new run" in error.fix
    save_target(tmp_path / "target")
    assert opened(run).target.fingerprint == first.fingerprint  # put back


@pytest.mark.slow
def test_another_chat_template_is_refused(run: RunFolder, tmp_path: Path):
    opened(run)
    save_target(tmp_path / "target", template=CHATML.replace("'\n' + m", "': ' + m"))
    assert refusal(run).what.endswith("chat_template.jinja has changed, it has another chat template")


@pytest.mark.slow
def test_what_describes_a_tuning_is_no_part_of_the_target(run: RunFolder, tmp_path: Path):
    opened(run)
    (tmp_path / "target" / "tuning.json").write_text("{}")
    (tmp_path / "target" / "README.md").write_text("hello")
    opened(run)


@pytest.mark.slow
def test_a_moved_hub_model_is_refused_with_the_commit_that_it_was(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    old, new = (tmp_path / "snapshots" / name for name in ("a1b2", "c3d4"))
    save_target(old)
    shutil.copytree(old, new)
    save_target(new, seed=5)
    heads = {"main": old, None: old, "a1b2": old}

    def fetched(name: str, revision: str | None = None, **_: Any) -> str:
        return str(heads[revision])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace(f"model: {tmp_path / 'target'}", "model: hub:org/name"))
    opened(run)
    heads[None] = new
    assert "`revision: a1b2`" in refusal(run).fix
    config.write_text(config.read_text().replace("revision: null", "revision: a1b2"))
    opened(run)


@pytest.mark.slow
@pytest.mark.parametrize("known", [None, "same", "0" * 64])
def test_a_run_of_before_goes_on_and_another_fingerprint_is_noted(run: RunFolder, known: str | None):
    progress = Heard()
    target = opened(run).target
    (run.path / "target.json").unlink()
    Provenance(target_fingerprint=target.fingerprint if known == "same" else known).write(run.path)
    opened(run, progress)
    noted = [note for note in progress.notes if "the target's files are not those of before" in note]
    assert len(noted) == (known == "0" * 64)
    assert (run.path / "target.json").exists() == (known != "0" * 64)


def test_the_files_of_a_gguf_target_are_its_own_and_not_those_of_its_conversion(tmp_path: Path):
    from engine.config.schema import ModelSpec
    from tests.tiny_gguf import write_gguf

    path = write_gguf(tmp_path / "model.gguf", tiny_llama(), byte_tokenizer())
    assert list(model_files(ModelSpec(model=str(path)))) == ["model.gguf"]
