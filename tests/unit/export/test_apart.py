"""A draft that is an adapter, exported merged and apart: plain Transformers and PEFT load what the run measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.models.adapter import CONFIG
from engine.models.draft import load_draft
from engine.paths import home
from engine.runs.folder import RunFolder
from engine.runs.session import load_target
from tests.conftest import made_once
from tests.unit.conftest import Draftbench, call, quick

pytestmark = pytest.mark.slow

CHANGES = ("train.learning_rate=0.02", "train.loss=sft", "train.epochs=6", "train.eval_every=1", "draft.lora.alpha=8")


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, finished: tuple[Path, Any], recipe: Path) -> Path:
    """A home with two adapters on the draft of the run `tiny`: `one` and `two`; `own` has a vocabulary of its own."""

    def make(folder: Path) -> None:
        shutil.copytree(finished[0], folder / "home")
        with pytest.MonkeyPatch.context() as patch, quick():
            patch.setenv("DRAFTBENCH_HOME", str(folder / "home"))
            patch.setenv("DRAFTBENCH_CACHE", str(folder / "home" / "cache"))
            runs = {
                "one": ["draft.init=checkpoint", "draft.checkpoint=tiny", *CHANGES, "draft.lora.rank=2"],
                "two": ["draft.init=checkpoint", "draft.checkpoint=tiny", *CHANGES, "draft.lora.rank=3"],
                "own": [
                    "draft.init=checkpoint",
                    "draft.checkpoint=tiny",
                    "draft.vocabulary=90",
                    *CHANGES,
                    "draft.lora.rank=2",
                ],
            }
            for name, changes in runs.items():
                given = [part for change in (f"name={name}", *changes) for part in ("--set", change)]
                result = call("run", str(recipe), *given)
                assert result.code == 0, result.err

    return made_once(tmp_path_factory, "adapters", make) / "home"


@pytest.fixture(autouse=True)
def own_home(adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(adapters, tmp_path / "home")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits.float()


def test_plain_peft_loads_the_adapter_in_the_exported_shared_draft(tmp_path: Path, draftbench: Draftbench):
    result = draftbench("export", "one", "--lora", "apart", "--out", str(tmp_path / "one"), "--json")
    assert result.code == 0, result.err + result.out
    report = result.json()
    assert report["ok"]
    assert report["same_greedy_text"] == "4 of 4"
    assert {row["same"] for row in report["checked"]} == {True}

    from peft import AutoPeftModelForCausalLM

    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32).eval()
    run = RunFolder.open(home(), "one")
    draft = load_draft(run.path / "draft" / "best", load_target(run.recipe()))
    whole, ours = logits(loaded), logits(draft.model)
    torch.testing.assert_close(whole, ours, rtol=1e-3, atol=1e-4)
    with loaded.disable_adapter():
        assert not torch.allclose(logits(loaded), whole, atol=1e-2)


def test_the_shared_draft_is_written_once_for_all(tmp_path: Path, draftbench: Draftbench):
    for name in ("one", "two"):
        out = str(tmp_path / "exports" / name)
        result = draftbench("export", name, "--lora", "apart", "--out", out, "--json")
        assert result.code == 0, result.err + result.out
        assert result.json()["ok"]
    (shared,) = (tmp_path / "exports").glob("shared-draft-*")
    configs = [json.loads((tmp_path / "exports" / name / CONFIG).read_text()) for name in ("one", "two")]
    assert {config["base_model_name_or_path"] for config in configs} == {str(shared)}
    sizes = {p.name: sum(f.stat().st_size for f in p.iterdir()) for p in (tmp_path / "exports").iterdir()}
    assert sizes["one"] < sizes[shared.name]


def test_merged_it_is_the_plain_folder_of_any_draft(tmp_path: Path, draftbench: Draftbench):
    report = draftbench("export", "one", "--lora", "merged", "--out", str(tmp_path / "out"), "--json").json()
    assert report["ok"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("tiny", [], "is not an adapter"),
        ("own", [], "a vocabulary of its own"),
        ("one", ["--format", "other"], "does not go with --format"),
    ],
)
def test_what_cannot_be_apart_is_refused_before_anything_is_written(
    tmp_path: Path, draftbench: Draftbench, name: str, more: list[str], message: str
):
    result = draftbench("export", name, "--lora", "apart", "--out", str(tmp_path / "new" / "out"), *more)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_not_taken_for_the_shared_draft(tmp_path: Path, draftbench: Draftbench):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "notes.txt").write_text("mine")
    result = draftbench(
        "export", "one", "--lora", "apart", "--out", str(tmp_path / "o"), "--shared", str(tmp_path / "base")
    )
    assert result.code == 2
    assert "other than an export of Draftbench" in result.err
    assert [p.name for p in (tmp_path / "base").iterdir()] == ["notes.txt"]


def test_an_adapter_in_another_base_fails_the_check(tmp_path: Path, draftbench: Draftbench):
    out = tmp_path / "one"
    assert draftbench("export", "one", "--lora", "apart", "--out", str(out), "--no-check").code == 0
    (shared,) = tmp_path.glob("shared-draft-*")
    from safetensors.torch import load_file, save_file

    weights = load_file(shared / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name] + 0.5
    save_file(weights, shared / "model.safetensors", metadata={"format": "pt"})
    result = draftbench("export", "one", "--lora", "apart", "--out", str(out), "--overwrite")
    assert result.code == 1
    assert "CHECK FAILED" in result.out
