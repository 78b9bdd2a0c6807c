"""int8 weights: the nearest whole numbers, one model in every dtype, and refusals where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.config.identity import identity
from engine.config.reading import parse_recipe
from engine.config.schema import DraftSpec, ModelSpec
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.errors import DraftbenchError
from engine.models import int8
from engine.models.draft import initialise_draft
from engine.models.fused_linears import as_loaded, packs
from engine.models.int8 import Int8Weights, quantise, round_weight
from engine.models.load import load_model, model_fingerprint, refuse_twice_rounded
from engine.tune.recipe import TuneRecipe
from tests.conftest import tiny_llama
from tests.tiny_pair import loaded

native = pytest.mark.skipif(
    not packs(torch.device("cpu"), torch.bfloat16), reason="this processor has no bfloat16 products"
)


def layer(width: int, out: int, *, bias: bool = False) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width * out)
        return torch.nn.Linear(width, out, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


def test_whole_numbers_and_scale_are_the_nearest_of_each_output():
    weight = layer(64, 24).weight.clone()
    weight[3] = 0
    numbers, scale = round_weight(weight)
    assert numbers.abs().amax() == 127
    assert torch.equal(scale, scale.bfloat16().float())
    error = (numbers * scale.unsqueeze(1) - weight.float()).abs()
    assert (error <= scale.unsqueeze(1) * 0.51 + weight.abs() * 2**-8).all()
    assert not numbers[3].any()
    again = round_weight(weight.float())
    assert torch.equal(again[0], numbers)
    assert torch.equal(again[1], scale)


@native
@pytest.mark.parametrize(("width", "out", "bias"), [(64, 64, False), (576, 192, True), (1536, 48, True)])
@torch.no_grad()
def test_a_product_is_that_of_the_rounded_weights(width: int, out: int, bias: bool):
    one, other = layer(width, out, bias=bias), layer(width, 2 * out, bias=bias)
    rounded = [round_weight(each.weight) for each in (one, other)]
    exact = [(numbers.double() * scale.double().unsqueeze(1)) for numbers, scale in rounded]
    for each, values in zip((one, other), exact, strict=True):
        each.weight.copy_(values)
    products = Int8Weights([one, other], rounded)
    for rows in (1, 2, 5):
        hidden = torch.randn(1, rows, width).bfloat16()
        parts = [
            F.linear(hidden.double(), values, each.bias.double() if bias else None)
            for each, values in zip((one, other), exact, strict=True)
        ]
        expected = torch.cat(parts, dim=-1)
        off = (products.product(hidden).double() - expected).abs().max()
        assert off <= 1e-2 * expected.abs().max()


WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160}


def quantised(dtype: torch.dtype = torch.bfloat16) -> Any:
    model = tiny_llama(**WIDE).to(dtype)
    quantise(model)
    return model


IDS = torch.arange(2, 12).unsqueeze(0)


@torch.no_grad()
def test_the_model_is_another_one_and_close_to_the_first():
    plain, rounded = tiny_llama(**WIDE).bfloat16()(input_ids=IDS).logits, quantised()(input_ids=IDS).logits
    assert 0 < float((plain - rounded).float().norm() / plain.float().norm()) < 0.1


@torch.no_grad()
def test_the_plain_weights_are_the_rounded_ones_in_every_dtype():
    model, whole, source = quantised(), quantised(torch.float32), tiny_llama(**WIDE)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16())
        changed = name.endswith("proj.weight")
        assert torch.equal(tensor, source.state_dict()[name]) != changed
    assert not any("forward" in vars(module) for module in whole.modules())


@torch.no_grad()
def test_several_tokens_have_the_bits_of_the_rounded_plain_weights_and_one_token_nearly():
    model, single = quantised(), IDS[:, :1]
    several, one = model(input_ids=IDS).logits, model(input_ids=single).logits
    with as_loaded():
        assert torch.equal(model(input_ids=IDS).logits, several)
        torch.testing.assert_close(model(input_ids=single).logits, one, rtol=5e-2, atol=5e-2)


def test_a_draft_of_its_layers_fits_it():
    draft = initialise_draft(loaded(quantised()), DraftSpec(layers=2), seed=0)
    assert all(torch.isfinite(parameter).all() for parameter in draft.model.parameters())


def test_speculative_text_is_the_quantised_targets_own():
    target, draft = quantised(torch.float32), tiny_llama(**WIDE, layers=2, seed=1)
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), 24, frozenset())
    prompts = [[5, 6, 7, 8], [9, 10]]
    texts = []
    for rounds in (plain_decode(target, prompts, settings), speculative_decode(target, draft, prompts, settings)):
        text: dict[int, list[int]] = {}
        for item in rounds:
            text.setdefault(item.row, []).extend(item.emitted)
        texts.append(text)
    assert texts[0] == texts[1]


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch):
    right = Int8Weights.product
    monkeypatch.setattr(Int8Weights, "product", lambda self, hidden: right(self, hidden) * 1.1)
    assert not any("forward" in vars(module) for module in quantised().modules())


def spec(folder: Path, **settings: Any) -> ModelSpec:
    return ModelSpec(**{"model": str(folder), "dtype": "bfloat16", "device": "cpu", **settings})


def test_it_is_loaded_by_name_with_a_fingerprint_and_a_label_of_its_own(tiny_target_folder: Path):
    plain, rounded = (load_model(spec(tiny_target_folder, quantize=kind)) for kind in (None, "int8"))
    assert plain.fingerprint == model_fingerprint(plain.spec) != rounded.fingerprint == model_fingerprint(rounded.spec)
    assert rounded.spec.label == f"{tiny_target_folder}, int8 weights"
    assert rounded.embeddings_hash == plain.embeddings_hash
    with torch.no_grad():
        assert not torch.equal(plain.model(input_ids=IDS).logits, rounded.model(input_ids=IDS).logits)


def test_a_recipe_with_it_is_another_cell_and_one_without_is_as_before():
    prompts = {"prompts": {"train": ["a.jsonl"], "heldout": ["b.jsonl"]}}
    plain, rounded = (parse_recipe({**prompts, "target": {"quantize": kind}}) for kind in (None, "int8"))
    assert identity(plain) == identity(parse_recipe(prompts)) != identity(rounded)


def test_it_is_refused_where_it_cannot_be(tiny_target_folder: Path):
    with pytest.raises(DraftbenchError, match="is for the CPU"):
        int8.refuse_int8(torch.device("cuda:0"))
    with pytest.raises(DraftbenchError, match="quantised already"):
        refuse_twice_rounded(spec(tiny_target_folder, quantize="int8"), {"quant_method": "gptq"})


def test_a_target_that_is_tuned_is_not_rounded():
    with pytest.raises(ValueError, match="tune the plain model"):
        TuneRecipe(name="x", target=ModelSpec(quantize="int8"), data={"train": ["a"], "heldout": ["b"]})
