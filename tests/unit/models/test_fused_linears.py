"""Fused linear layers: the same bits as the plain ones in every family, and plain tensors for everybody else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from engine.config.schema import DraftSpec
from engine.decode import bare
from engine.decode.runner import runner_for
from engine.decode.sampling import Sampling
from engine.models import fused_linears
from engine.models.draft import initialise_draft
from engine.models.fused_linears import Packed, readers_of_one_input
from engine.models.head import Head
from tests.conftest import tiny_llama
from tests.tiny_pair import loaded

pytestmark = pytest.mark.skipif(
    not fused_linears.packs(torch.device("cpu"), torch.bfloat16), reason="this processor has no bfloat16 products"
)
SHAPE: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SMALL_PHI = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
# Family -> its model, and how many products its linear layers take: q, k and v are one, and so are gate and up. GPT-2's
# layers are of another kind, and so are Mixtral's experts.
FAMILIES: dict[str, tuple[Callable[[], Any], int]] = {
    "Llama": (lambda: tiny_llama(**SHAPE | {"layers": 2, "vocab": 258}), 8),
    "Qwen 2, biases": (lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)), 8),
    "Gemma": (lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=16)), 8),
    "Phi-3, fused": (lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)), 8),
    "Phi, biases everywhere": (lambda: PhiForCausalLM(PhiConfig(**SMALL_PHI)), 6),
    "GPT-2": (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=64, n_layer=2, n_head=4)), 0),
    "Mixtral": (lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=2)), 4),
}


def in_bfloat16(family: str) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = FAMILIES[family][0]().eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zeros would hide them
                parameter.normal_()
        return model.to(torch.bfloat16)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
@torch.no_grad()
def test_every_family_computes_the_same_bits(family: str, monkeypatch: pytest.MonkeyPatch):
    model = in_bfloat16(family)
    plain = copy.deepcopy(model)
    fused_linears.fuse_linears(model)
    used = spy(monkeypatch)
    for rows, columns in ((1, 1), (1, 2), (1, 5), (3, 1), (4, 8), (32, 1), (2, 33), (1, 200)):
        ids = torch.randint(0, 258, (rows, columns), generator=torch.Generator().manual_seed(rows * columns))
        used.clear()
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
        assert len(used) == (FAMILIES[family][1] if rows * columns <= fused_linears.MOST_ROWS else 0)


@pytest.mark.slow
@torch.no_grad()
def test_decoding_from_a_cache_gives_the_same_bits(family: str):
    model = in_bfloat16(family)
    runners = [runner_for(copy.deepcopy(model))]
    fused_linears.fuse_linears(model)
    runners.append(runner_for(model))
    for columns in (7, 1, 1, 4, 1):
        plain, fast = (runner.feed([[5 * columns] * columns, [3] * columns], last=columns) for runner in runners)
        assert torch.equal(plain, fast)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the inputs of every packed product from now on."""
    used: list[torch.Size] = []
    product = Packed.product

    def noted(self: Packed, hidden: torch.Tensor) -> torch.Tensor:
        used.append(hidden.shape)
        return product(self, hidden)

    monkeypatch.setattr(Packed, "product", noted)
    return used


def llama() -> Any:
    return in_bfloat16("Llama")


IDS = torch.arange(2, 10).unsqueeze(0)


@torch.no_grad()
def test_the_head_outside_of_its_model_is_packed_too(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    hidden = torch.randn(1, 3, 64).bfloat16()
    expected = Head.of(model).logits(hidden)
    fused_linears.fuse_linears(model)
    used = spy(monkeypatch)
    assert torch.equal(Head.of(model).logits(hidden), expected)
    assert len(used) == 1


def test_names_types_and_tensors_stay(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    plain = copy.deepcopy(model)
    fused_linears.fuse_linears(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert loaded(model).embeddings_hash == loaded(plain).embeddings_hash


@torch.no_grad()
def test_a_copy_is_plain_and_does_not_read_the_original(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    fused_linears.fuse_linears(model)
    expected = model(input_ids=IDS).logits
    other = copy.deepcopy(model)
    used = spy(monkeypatch)
    assert torch.equal(other(input_ids=IDS).logits, expected)
    assert not used
    for parameter in other.parameters():
        parameter.zero_()
    assert not other(input_ids=IDS).logits.any()
    assert torch.equal(model(input_ids=IDS).logits, expected)


@torch.no_grad()
def test_a_weight_that_is_changed_is_not_used_from_its_copy():
    model = llama()
    fused_linears.fuse_linears(model)
    for layer in (model.model.layers[0].mlp.down_proj, model.model.layers[1].self_attn.q_proj):
        layer.weight.mul_(2)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    assert torch.equal(model(input_ids=IDS).logits, copy.deepcopy(model)(input_ids=IDS).logits)
    model.float()
    assert model(input_ids=IDS).logits.dtype == torch.float32


def test_gradients_go_through_the_plain_weights():
    model = llama()
    plain = copy.deepcopy(model)
    fused_linears.fuse_linears(model)
    for each in (model, plain):
        each.requires_grad_(True)(input_ids=IDS).logits.float().logsumexp(-1).sum().backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_a_draft_is_cut_out_of_a_packed_target():
    target = loaded(llama())
    plain = loaded(copy.deepcopy(target.model))
    fused_linears.fuse_linears(target.model)
    drafts = [initialise_draft(each, DraftSpec(layers=1), seed=0).model.state_dict() for each in (target, plain)]
    assert drafts[0].keys() == drafts[1].keys()
    assert all(torch.equal(tensor, drafts[1][name]) for name, tensor in drafts[0].items())


@torch.no_grad()
def test_what_is_not_the_same_in_every_bit_stays_plain(monkeypatch: pytest.MonkeyPatch):
    product = Packed.product
    monkeypatch.setattr(Packed, "product", lambda self, h: product(self, h) * (1 if h.shape[1] < 32 else 1.01))
    model = llama()
    fused_linears.fuse_linears(model)
    assert not any(hasattr(weight, "packed_head") for weight in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())


def test_nothing_is_packed_in_float32_or_without_memory(monkeypatch: pytest.MonkeyPatch):
    whole, crowded = llama().float(), llama()
    fused_linears.fuse_linears(whole)
    free = sum(parameter.nbytes for parameter in crowded.parameters())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": free}))
    fused_linears.fuse_linears(crowded)
    weights = [*whole.parameters(), *crowded.parameters()]
    assert not any(hasattr(weight, "packed_head") for weight in weights)


@torch.no_grad()
def test_generate_is_compared_as_it_is_for_everybody(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    fused_linears.fuse_linears(model)
    used = spy(monkeypatch)
    bare.generate(model, [5, 6, 7], Sampling(0.0), max_new_tokens=3, seed=0)
    assert not used
    runner_for(model).feed([[5, 6, 7]], last=1)
    assert used


@torch.no_grad()
def test_inputs_that_were_not_compared_go_the_plain_way(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    fused_linears.fuse_linears(model)
    layer, used = model.model.layers[0].mlp.up_proj, spy(monkeypatch)
    wide = torch.randn(1, 4, 128).bfloat16()
    assert torch.equal(layer(wide[..., ::2]), F.linear(wide[..., ::2], layer.weight))
    assert torch.equal(layer(wide[0, 0, :64]), F.linear(wide[0, 0, :64], layer.weight))
    assert len(used) <= 1


@torch.no_grad()
def test_layers_that_read_the_same_input_are_one_group():
    model = llama()
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    groups = [[names[id(layer)] for layer in group] for group in readers_of_one_input(model)]
    layer = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert groups == [*layer, *layer, ["lm_head"]]


@torch.no_grad()
def test_an_input_that_changes_between_two_siblings_is_read_again():
    model = llama()
    fused_linears.fuse_linears(model)
    attention, hidden = model.model.layers[0].self_attn, torch.randn(1, 1, 64).bfloat16()
    attention.q_proj(hidden)
    hidden.mul_(3)
    assert torch.equal(attention.k_proj(hidden), F.linear(hidden, attention.k_proj.weight))
    attention.q_proj(hidden)
    other = hidden.clone().mul_(3)
    assert torch.equal(attention.v_proj(other), F.linear(other, attention.v_proj.weight))


class Picky(torch.nn.Module):
    """A norm that cannot read a part of a larger result."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(-1).view(states.shape)


@torch.no_grad()
def test_a_model_that_cannot_take_parts_of_a_larger_result_keeps_its_products_apart():
    model = llama()
    for block in model.model.layers:
        block.mlp.act_fn = Picky()
    plain = copy.deepcopy(model)
    fused_linears.fuse_linears(model)
    products = {id(module.forward._siblings) for module in model.modules() if "forward" in vars(module)}
    assert len(products) == 14
    assert torch.equal(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
