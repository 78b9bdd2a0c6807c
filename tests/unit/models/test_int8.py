"""int8 weights: sums of whole numbers that are exact, a target of its own, and refusals where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.config.reading import parse_recipe
from engine.config.schema import DraftSpec, ModelSpec
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.errors import DraftbenchError
from engine.models import int8
from engine.models.draft import initialise_draft
from engine.models.fused_linears import as_loaded
from engine.models.int8 import Int8Weights, quantise, round_inputs, round_weight
from engine.models.load import load_model, model_fingerprint, refuse_twice_rounded
from engine.study.identity import identity
from engine.tune.recipe import TuneRecipe
from tests.conftest import tiny_llama
from tests.tiny_pair import loaded

pytestmark = pytest.mark.skipif(not int8._computes_exactly(), reason="this processor has no exact 8-bit products")


def layer(width: int, out: int, *, bias: bool = False) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width * out)
        return torch.nn.Linear(width, out, bias=bias).requires_grad_(False)


def by_the_definition(hidden: torch.Tensor, linear: torch.nn.Linear) -> torch.Tensor:
    """The product in float64, from the whole numbers and scales."""
    numbers, scale = round_inputs(hidden)
    weights, weight_scale = round_weight(linear.weight)
    product = (numbers.double() - 128) @ weights.double().T * weight_scale.double() * scale.double()
    return product if linear.bias is None else product + linear.bias.double()


@pytest.mark.parametrize(
    ("width", "out", "bias"), [(64, 64, False), (576, 192, True), (33, 17, True), (3000, 5, False)]
)
def test_a_product_is_the_definitions_to_the_last_digits(width: int, out: int, bias: bool):
    one, hidden = layer(width, out, bias=bias), torch.randn(3, 7, width)
    actual = Int8Weights([one]).product(hidden)
    torch.testing.assert_close(actual.double(), by_the_definition(hidden, one), rtol=1e-6, atol=1e-7)


def test_the_largest_sums_do_not_overflow():
    one = layer(4096, 8)
    one.weight.copy_(torch.where(one.weight > 0, 1.0, -1.0))
    one.weight[0] = 1.0
    hidden = torch.ones(1, 4096)
    torch.testing.assert_close(Int8Weights([one]).product(hidden), F.linear(hidden, one.weight), rtol=1e-6, atol=1e-3)


def test_a_tokens_result_does_not_depend_on_the_tokens_beside_it():
    one, hidden = layer(576, 192), torch.randn(70, 576)
    together = Int8Weights([one]).product(hidden)
    assert torch.equal(together, torch.cat([Int8Weights([one]).product(row) for row in hidden.split(1)]))


def test_zeros_stay_zeros():
    one = layer(64, 8)
    one.weight[3] = 0
    assert not Int8Weights([one]).product(torch.zeros(2, 64)).any()
    assert not Int8Weights([one]).product(torch.randn(2, 64))[:, 3].any()


def test_layers_that_read_the_same_input_are_rounded_one_by_one():
    first, second, hidden = layer(64, 8), layer(64, 24), torch.randn(2, 64)
    second.weight.mul_(100)
    apart = torch.cat([Int8Weights([first]).product(hidden), Int8Weights([second]).product(hidden)], dim=-1)
    assert torch.equal(Int8Weights([first, second]).product(hidden), apart)


WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160}


def quantised(dtype: torch.dtype = torch.bfloat16) -> Any:
    model = tiny_llama(**WIDE).to(dtype)
    quantise(model)
    return model


IDS = torch.arange(2, 12).unsqueeze(0)


@torch.no_grad()
def test_the_model_is_another_one_and_close_to_the_first():
    plain, rounded = tiny_llama(**WIDE).bfloat16()(input_ids=IDS).logits, quantised()(input_ids=IDS).logits
    assert 0 < float((plain - rounded).float().norm() / plain.float().norm()) < 0.2


@torch.no_grad()
def test_the_plain_weights_are_the_rounded_ones_in_every_dtype():
    model, whole, source = quantised(), quantised(torch.float32), tiny_llama(**WIDE)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16())
        changed = name.endswith("proj.weight")
        assert torch.equal(tensor, source.state_dict()[name]) != changed
    assert not any("forward" in vars(module) for module in whole.modules())


@torch.no_grad()
def test_the_library_as_it_is_computes_with_the_same_weights():
    model = quantised()
    inside = model(input_ids=IDS).logits
    with as_loaded():
        assert torch.equal(model(input_ids=IDS).logits, inside)


def test_a_draft_of_its_layers_fits_it():
    draft = initialise_draft(loaded(quantised()), DraftSpec(layers=2), seed=0)
    assert all(torch.isfinite(parameter).all() for parameter in draft.model.parameters())


def test_speculative_text_is_the_quantised_targets_own():
    target, draft = quantised(), tiny_llama(**WIDE, layers=2, seed=1).bfloat16()
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), 24, frozenset())
    prompts = [[5, 6, 7, 8], [9, 10]]
    texts = []
    for rounds in (plain_decode(target, prompts, settings), speculative_decode(target, draft, prompts, settings)):
        text: dict[int, list[int]] = {}
        for item in rounds:
            text.setdefault(item.row, []).extend(item.emitted)
        texts.append(text)
    assert texts[0] == texts[1]


def test_it_has_no_gradients():
    hidden = torch.randn(1, 64, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradients"):
        quantised().model.layers[0].self_attn.q_proj(hidden)


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


def test_it_is_refused_where_it_cannot_be(tiny_target_folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DraftbenchError, match="is for the CPU"):
        int8.refuse_int8(torch.device("cuda:0"))
    with pytest.raises(DraftbenchError, match="quantised already"):
        refuse_twice_rounded(spec(tiny_target_folder, quantize="int8"), {"quant_method": "gptq"})
    monkeypatch.setattr(int8, "_computes_exactly", lambda: False)
    with pytest.raises(DraftbenchError, match="cannot be used on this processor"):
        load_model(spec(tiny_target_folder, quantize="int8"))


def test_a_target_that_is_tuned_is_not_rounded():
    with pytest.raises(ValueError, match="have no gradients"):
        TuneRecipe(name="x", target=ModelSpec(quantize="int8"), data={"train": ["a"], "heldout": ["b"]})
