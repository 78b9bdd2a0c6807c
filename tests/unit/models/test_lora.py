"""The adapter of a draft: where it fits, merged into its shared draft, and refused on any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config.lora import DraftLoraSpec
from engine.config.schema import DraftSpec
from engine.errors import DraftbenchError
from engine.fileio import sha256_file
from engine.models.draft import (
    Draft,
    initialise_draft,
    load_draft,
    parameter_counts,
    save_draft,
    trim,
    with_adapter,
)
from engine.models.fused_linears import as_loaded
from engine.models.head import DRAFT_IDS
from engine.models.load import LoadedModel
from engine.models.lora import adapted_layers, adapter_size, fresh_adapter
from engine.models.precision import cast
from tests.conftest import tiny_llama
from tests.tiny_pair import draft_of, loaded

IDS = torch.arange(3, 20)[None]


@pytest.fixture
def target() -> LoadedModel:
    return loaded(tiny_llama())


def adapted(folder: Path, target: LoadedModel, draft: Draft | None = None, **spec: Any) -> Draft:
    """A trained adapter: neither A nor B is as it began."""
    draft = draft or draft_of(target)
    if not (folder / "shared").exists():
        save_draft(folder / "shared", draft)
    made = with_adapter(draft, DraftLoraSpec(**{"rank": 3, **spec}), folder / "shared", name="", seed=0)
    assert made.lora is not None
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.lora.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    made.lora.merge()
    return made


def logits(draft: Draft) -> torch.Tensor:
    with torch.no_grad():
        return draft.model(input_ids=IDS).logits


def test_a_fresh_adapter_changes_nothing_and_the_same_seed_gives_the_same(tmp_path: Path, target: LoadedModel):
    plain, made = logits(draft_of(target)), []
    for seed in (0, 0, 1):
        draft = draft_of(target)
        save_draft(tmp_path / "shared", draft)
        made.append(with_adapter(draft, DraftLoraSpec(rank=2), tmp_path / "shared", name="", seed=seed))
        assert torch.equal(logits(made[-1]), plain)
    a, b, c = (draft.lora.state() for draft in made)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_the_folder_holds_the_adapter_alone_and_loads_as_the_merged_draft(tmp_path: Path, target: LoadedModel):
    draft = adapted(tmp_path, target)
    save_draft(tmp_path / "best", draft)
    stored = load_file(tmp_path / "best" / "draft.safetensors")
    assert sum(t.numel() for t in stored.values()) == draft.lora.size == parameter_counts(draft)["trained"]
    assert draft.lora.size == adapter_size(draft.model, DraftLoraSpec(rank=3))
    again = load_draft(tmp_path / "best", target)
    assert torch.equal(logits(again), logits(draft))
    assert again.lora is None
    assert again.info.lora.shared_sha256 == sha256_file(tmp_path / "shared" / "draft.safetensors")


def test_peft_computes_the_merged_logits_beside_the_weights(tmp_path: Path, target: LoadedModel):
    draft = adapted(tmp_path, target, dropout=0.3)
    model, inside = draft.lora.training_copy(torch.float32)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name.replace(".weight", ".default.weight") for name in inside
    }
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, logits(draft), rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_merged_in_float32_and_rounded_once_and_its_layers_are_packed(
    tmp_path: Path, target: LoadedModel
):
    draft = adapted(tmp_path, target)
    save_draft(tmp_path / "best", draft)
    served = LoadedModel(cast(tiny_llama(), torch.bfloat16), target.tokenizer, target.spec, "tiny")
    again = load_draft(tmp_path / "best", served)
    for place in draft.lora.layers:
        merged = draft.model.get_submodule(place).weight
        assert torch.equal(again.model.get_submodule(place).weight, merged.to(torch.bfloat16)), place
    packed = logits(again)
    with as_loaded():
        assert torch.equal(packed, logits(again))
    assert again.model.get_input_embeddings() is served.model.get_input_embeddings()


def test_a_trimmed_draft_keeps_its_own_ids_beside_the_adapter(tmp_path: Path, target: LoadedModel):
    base = draft_of(target)
    save_draft(tmp_path / "shared", base)
    ids = torch.arange(4, 120, 2)
    draft = adapted(tmp_path, target, trim(base, target, ids))
    save_draft(tmp_path / "best", draft)
    assert DRAFT_IDS in load_file(tmp_path / "best" / "draft.safetensors")
    again = load_draft(tmp_path / "best", target)
    assert again.info.vocabulary == len(ids)
    assert torch.equal(logits(again), logits(draft))
    assert logits(again).shape[-1] == len(ids)


def test_an_adapter_on_a_trimmed_shared_draft(tmp_path: Path, target: LoadedModel):
    save_draft(tmp_path / "shared", trim(draft_of(target), target, torch.arange(4, 120, 2)))
    base = initialise_draft(
        target, DraftSpec(init="checkpoint", checkpoint="x"), seed=0, checkpoint=tmp_path / "shared"
    )
    draft = adapted(tmp_path, target, base)
    save_draft(tmp_path / "best", draft)
    assert torch.equal(logits(load_draft(tmp_path / "best", target)), logits(draft))


def test_a_draft_with_embeddings_of_its_own(tmp_path: Path, target: LoadedModel):
    draft = adapted(tmp_path, target, draft_of(target, share_embeddings=False))
    save_draft(tmp_path / "best", draft)
    assert torch.equal(logits(load_draft(tmp_path / "best", target)), logits(draft))


def test_another_adapter_is_trained_on_the_merged_draft(tmp_path: Path, target: LoadedModel):
    first = adapted(tmp_path / "a", target)
    save_draft(tmp_path / "a" / "best", first)
    base = initialise_draft(
        target, DraftSpec(init="checkpoint", checkpoint="x"), seed=0, checkpoint=tmp_path / "a" / "best"
    )
    assert base.info.lora is None
    second = adapted(tmp_path / "b", target, base)
    save_draft(tmp_path / "b" / "best", second)
    assert torch.equal(logits(load_draft(tmp_path / "b" / "best", target)), logits(second))


# ---- refused --------------------------------------------------------------------------------


def test_on_another_shared_draft_it_is_refused(tmp_path: Path, target: LoadedModel):
    save_draft(tmp_path / "best", adapted(tmp_path, target))
    save_draft(tmp_path / "shared", draft_of(target, layers=[0, 1]))
    with pytest.raises(DraftbenchError, match="is an adapter on a shared draft that is not here") as refused:
        load_draft(tmp_path / "best", target)
    assert str(tmp_path / "shared") in refused.value.fix


def test_the_shared_draft_may_lie_where_the_recipe_named_it(tmp_path: Path, target: LoadedModel):
    draft = draft_of(target)
    save_draft(tmp_path / "elsewhere", draft)
    made = with_adapter(draft, DraftLoraSpec(), tmp_path / "elsewhere", name=str(tmp_path / "elsewhere"), seed=0)
    save_draft(tmp_path / "run" / "best", made)
    assert torch.equal(logits(load_draft(tmp_path / "run" / "best", target)), logits(made))
    (tmp_path / "elsewhere" / "draft.json").unlink()
    with pytest.raises(DraftbenchError, match="not here"):
        load_draft(tmp_path / "run" / "best", target)


def test_a_damaged_shared_draft_is_refused(tmp_path: Path, target: LoadedModel):
    save_draft(tmp_path / "best", adapted(tmp_path, target))
    weights = bytearray((tmp_path / "shared" / "draft.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "shared" / "draft.safetensors").write_bytes(bytes(weights))
    with pytest.raises(DraftbenchError, match="is damaged"):
        load_draft(tmp_path / "best", target)


@pytest.mark.parametrize("change", ["gone", "shape", "extra"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, target: LoadedModel, change: str):
    save_draft(tmp_path / "best", adapted(tmp_path, target))
    file = tmp_path / "best" / "draft.safetensors"
    state = load_file(file)
    name = min(state)
    if change == "gone":
        del state[name]
    elif change == "shape":
        state[name] = state[name][:2].contiguous()
    else:
        state["lm_head.lora_A.weight"] = torch.zeros(3, 32)
    save_file(state, file)
    card = json.loads((tmp_path / "best" / "draft.json").read_text())
    card["weights_sha256"] = sha256_file(file)
    (tmp_path / "best" / "draft.json").write_text(json.dumps(card))
    with pytest.raises(DraftbenchError, match="does not fit its shared draft"):
        load_draft(tmp_path / "best", target)


def test_layers_that_are_not_there_or_are_an_end_of_the_model_are_refused():
    model = tiny_llama()
    with pytest.raises(DraftbenchError, match="no linear layers called 'q_projj'") as refused:
        adapted_layers(model, ["q_projj"], key="draft.lora.modules")
    assert "did you mean 'q_proj'" in refused.value.fix
    model.model.output = torch.nn.Linear(32, 258, bias=False)
    model.model.output.weight = model.model.embed_tokens.weight  # a head of another name, tied
    with pytest.raises(DraftbenchError, match="an end of the model"):
        adapted_layers(model, ["output"], key="draft.lora.modules")


def test_a_weight_that_two_layers_share_is_refused_before_training():
    """Merged, each update would change both; only a comparison of logits shows it."""
    model = tiny_llama()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    with pytest.raises(DraftbenchError, match="cannot be merged"):
        fresh_adapter(model, DraftLoraSpec(), seed=0, shared_sha256="", shared_name="")
