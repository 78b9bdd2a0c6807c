"""A model converted to another precision computes what it computes when it is loaded in that one."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.models.precision import cast, renew
from tests.conftest import tiny_llama

torch.set_num_threads(1)
TEXT = torch.arange(1, 241).unsqueeze(0)  # long enough for rounded rotary frequencies to turn far tokens elsewhere


@torch.no_grad()
def logits(model):
    return model(input_ids=TEXT).logits.float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_what_the_loaded_model_computes(tmp_path, dtype):
    model = tiny_llama()
    model.save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    converted = cast(copy.deepcopy(model), dtype)
    assert converted.dtype == converted.config.dtype == dtype
    assert torch.equal(logits(converted), logits(expected))
    assert not torch.equal(logits(copy.deepcopy(model).to(dtype)), logits(expected)), "rounded frequencies show here"


def test_what_is_saved_is_converted_and_what_is_computed_is_kept():
    model = tiny_llama()
    model.register_buffer("bias_of_experts", torch.ones(3))
    cast(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.bias_of_experts.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_copy_gets_the_weights_that_training_changed():
    model = tiny_llama().requires_grad_(True)
    model.get_input_embeddings().weight.requires_grad_(False)
    copied = cast(copy.deepcopy(model), torch.bfloat16).requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    renew(copied, model)
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs.bfloat16()) is theirs.requires_grad
