"""Queries that share keys, laid behind each other, get what repeated keys would give them."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.decode.attention import packed, packed_attention
from engine.decode.slot_runner import SlotRunner
from tests.conftest import tiny_llama
from tests.operators import Operators
from tests.tiny_decoders import KINDS, made

torch.set_num_threads(1)
HEADS, SIZE, SLOTS = 6, 16, 40


def inputs(dtype, rows, width, shared):
    drawn = torch.Generator().manual_seed(0)
    query = torch.randn(rows, width, HEADS, SIZE, generator=drawn).to(dtype).transpose(1, 2)
    key, value = (torch.randn(rows, HEADS // shared, SLOTS, SIZE, generator=drawn).to(dtype) for _ in range(2))
    lengths = torch.randint(1, SLOTS - width, (rows, 1), generator=drawn)
    mask = torch.arange(SLOTS) <= (lengths + torch.arange(width))[:, None, :, None]
    return SimpleNamespace(num_key_value_groups=shared), query, key, value, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shared", [1, 2, 3])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 4), (3, 2), (4, 5)])
def test_it_is_what_transformers_computes(dtype, shared, rows, width):
    module, *tensors = inputs(dtype, rows, width, shared)
    for scaling in (None, 0.3):
        expected, _ = sdpa_attention_forward(module, *tensors, scaling=scaling)
        found, _ = packed_attention(module, *tensors, scaling=scaling)
        assert found.shape == expected.shape == (rows, width, HEADS, SIZE)
        torch.testing.assert_close(found, expected)


def test_a_mask_of_one_row_is_that_of_all():
    module, query, key, value, mask = inputs(torch.float32, 3, 4, 2)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(packed_attention(module, query, key, value, mask[:1])[0], expected)


def test_without_a_mask_or_with_more_than_a_mask_it_is_left_to_transformers():
    module, query, key, value, mask = inputs(torch.float32, 2, 4, 2)
    expected, _ = sdpa_attention_forward(module, query, key[:, :, :4], value[:, :, :4], None)
    torch.testing.assert_close(packed_attention(module, query, key[:, :, :4], value[:, :, :4], None)[0], expected)
    bias = torch.randn(1, HEADS, 4, SLOTS)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, position_bias=bias)
    torch.testing.assert_close(packed_attention(module, query, key, value, mask, position_bias=bias)[0], expected)


@pytest.mark.parametrize("width", [1, 4])
def test_a_mask_is_made_ready_once_for_all_layers(width):
    counts = {}
    for layers in (1, 3):
        runner = SlotRunner(tiny_llama(layers=layers), recorded=True)
        runner.feed([[5] * 6], last=1)
        with Operators() as seen:
            runner.feed([[7] * width], last=1)
        assert seen.counts["embedding"] == 1, "the step itself was counted"
        counts[layers] = {name: seen.counts[name] for name in ("where", "repeat", "scalar_tensor", "fill", "full")}
    assert counts[1] == counts[3]
    assert counts[1]["where"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [1, 4])
def test_a_mask_made_ready_gives_the_same_bits(dtype, width):
    module, query, key, value, mask = inputs(dtype, 3, width, 2)
    expected, _ = packed_attention(module, query, key, value, mask)
    with packed(tiny_llama()):
        for _ in range(2):
            assert torch.equal(packed_attention(module, query, key, value, mask)[0], expected)
    mask = mask.repeat(1, 1, 2, 1) if width > 1 else mask
    grouped = query.reshape(3, HEADS // 2, 2 * width, SIZE)
    plain = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
    assert torch.equal(plain.reshape(query.shape).transpose(1, 2), expected)


@pytest.mark.slow
def test_only_models_that_look_their_attention_up_get_it_and_only_meanwhile():
    for model, name in ((tiny_llama(), "packed_sdpa"), (made("falcon", KINDS["falcon"]), "sdpa")):
        with packed(model):
            assert model.config._attn_implementation == name
        assert model.config._attn_implementation == "sdpa"


def test_a_forward_that_brings_no_mask_sees_its_windows_meanwhile():
    """As one of another thread may."""
    model, ids = made("gemma3_text", KINDS["gemma3_text"]), torch.arange(40).unsqueeze(0)
    expected = model(input_ids=ids).logits
    with packed(model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
