"""The output head apart from its model: with bias, scale and softcap, and refused where it does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BertGenerationConfig,
    BertGenerationDecoder,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from engine.errors import DraftbenchError
from engine.models.head import Head, check_head, check_head_outline, hidden_states, readable, refuse_unknown
from tests.conftest import tiny_llama

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "Llama": lambda: tiny_llama(),
    "Phi, a bias": lambda: PhiForCausalLM(PhiConfig(**SHAPE)),
    "Cohere, a scale": lambda: CohereForCausalLM(CohereConfig(**SHAPE, num_key_value_heads=2, logit_scale=0.25)),
    "Granite, a divisor": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, num_key_value_heads=2, logits_scaling=8.0)),
    "Gemma 2, a softcap": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.5)
    ),
}


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        created = FAMILIES[request.param]().eval().requires_grad_(False)
        head = created.get_output_embeddings()
        if head.bias is not None:
            torch.nn.init.normal_(head.bias)
    return created


def test_head_of_hidden_states_is_the_models_logits(model: Any):
    ids = torch.tensor([[1, 5, 9, 30], [7, 7, 7, 60]])
    result = Head.of(model).logits(hidden_states(model, ids))
    torch.testing.assert_close(result, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    check_head(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_checked_without_weights_or_layers(family: str):
    with torch.device("meta"):
        outline = FAMILIES[family]()
    head = outline.get_output_embeddings()
    check_head_outline(outline)
    assert outline.get_output_embeddings() is head  # as it was
    assert "forward" not in vars(outline.base_model)


def test_a_draft_reads_an_id_without_an_embedding_as_its_last_one(model: Any):
    """A target with padding rows may write one that its draft has no row for."""
    rows = model.get_input_embeddings().weight.shape[0]
    beyond, last = torch.tensor([[1, rows + 6, 9]]), torch.tensor([[1, rows - 1, 9]])
    assert torch.equal(hidden_states(model, beyond, is_draft=True), hidden_states(model, last))
    assert torch.equal(readable(model, beyond), last)


@pytest.mark.parametrize("wrong", [0, 6, 10**12])
def test_a_target_refuses_an_id_that_it_has_no_embedding_for(model: Any, wrong: int):
    rows = model.get_input_embeddings().weight.shape[0]
    with pytest.raises(DraftbenchError, match=f"token id {rows + wrong} has no embedding"):
        hidden_states(model, torch.tensor([[1, rows + wrong, 9]]))
    with pytest.raises(DraftbenchError, match="token id -1 has no embedding"):
        hidden_states(model, torch.tensor([[1, -1, 9]]))
    assert refuse_unknown(model, torch.zeros(1, 0, dtype=torch.long)).shape == (1, 0)


def test_padding_on_the_right_does_not_change_hidden_states(model: Any):
    ids, mask = torch.tensor([[1, 5, 9, 30], [7, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    alone = hidden_states(model, ids[1:, :2])
    torch.testing.assert_close(hidden_states(model, ids, mask)[1:, :2], alone, rtol=1e-4, atol=1e-5)


def test_scale_and_softcap_by_hand():
    hidden, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    raw = torch.tensor([[3.0 + 1.0, -8.0]])
    head = Head(weight, torch.tensor([1.0, 0.0]), scale=0.5, softcap=2.0)
    torch.testing.assert_close(head.logits(hidden), 2 * torch.tanh(raw * 0.5 / 2))


def test_a_head_can_be_taken_in_another_precision():
    model = tiny_llama()
    head = Head.of(model, torch.bfloat16)
    assert head.logits(torch.zeros(1, 32)).dtype == torch.bfloat16
    assert model.get_output_embeddings().weight.dtype == torch.float32


class Biased(LlamaForCausalLM):
    """Adds something to its logits that no head would know of."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.linspace(0, 1, output.logits.shape[-1])
        return output


def test_a_model_whose_logits_are_not_its_head_is_refused():
    with torch.random.fork_rng(devices=[]):
        odd = Biased(tiny_llama().config).eval()
    with pytest.raises(DraftbenchError, match="Biased are not its head"):
        check_head(odd)


def test_a_model_whose_logits_are_not_its_head_is_refused_without_weights():
    with torch.device("meta"):
        odd = Biased(tiny_llama().config)
    with pytest.raises(DraftbenchError, match="Biased are not its head"):
        check_head_outline(odd)


def test_an_encoder_is_refused_with_and_without_weights():
    """Its logits are its head, but each position has read the answer."""
    config = BertGenerationConfig(**SHAPE)
    with torch.random.fork_rng(devices=[]):
        model = BertGenerationDecoder(config).eval()
    with pytest.raises(DraftbenchError, match="reads the tokens that follow"):
        check_head(model)
    with torch.device("meta"):
        outline = BertGenerationDecoder(config)
    with pytest.raises(DraftbenchError, match="reads the tokens that follow"):
        check_head_outline(outline)
    check_head(BertGenerationDecoder(BertGenerationConfig(**SHAPE, is_decoder=True)).eval())
