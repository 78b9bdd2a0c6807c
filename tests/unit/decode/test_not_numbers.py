"""Logits that are not numbers are refused with their prompt, wherever a token is chosen from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.plan import plan_capture
from engine.capture.store import make_capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec
from engine.decode.sampling import NOT_NUMBERS, Sampling, are_numbers, draw
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.errors import DraftbenchError
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_pair import loaded

BAD = byte_tokenizer().convert_tokens_to_ids("z")
PROMPTS = [Prompt(name, ({"role": "user", "content": text},)) for name, text in (("fine", "hi"), ("broken", "hi z"))]


def spoiled(value: float = math.nan) -> Any:
    """A target of which one row of the embeddings is damaged: only who writes a `z` sees it."""
    model = tiny_llama(tie_word_embeddings=False)
    model.get_input_embeddings().weight.data[BAD] = value
    model.get_output_embeddings().weight.data[BAD] = 0  # nor does it write one itself
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("signal", ["exact", "compact"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_capture_names_the_prompt(tmp_path: Path, temperature: float, signal: str, batch_size: int):
    target, asked = loaded(spoiled()), CaptureSpec(max_new_tokens=6, temperature=temperature, signal=signal)
    with pytest.raises(DraftbenchError, match="not numbers for prompt 'broken', after 0 tokens") as refused:
        make_capture(plan_capture(tmp_path / "captures", target, PROMPTS, asked), target, batch_size=batch_size)
    assert "float32" in refused.value.fix
    made = make_capture(plan_capture(tmp_path / "captures", target, PROMPTS[:1], asked), target, batch_size=1)
    assert len(made.answers) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("draft", [None, tiny_llama(layers=1, seed=3)], ids=["alone", "with a draft"])
def test_decoding_names_the_prompt(temperature: float, draft: Any):
    settings = DecodeSettings(Sampling(temperature), FixedLength(3), 8, frozenset())
    prompts, names = [[5, 6], [5, BAD]], ["fine", "broken"]
    with pytest.raises(DraftbenchError, match="of LlamaForCausalLM are not numbers for prompt 'broken', after 0"):
        list(speculative_decode(spoiled(), draft, prompts, settings, names=names))
    with pytest.raises(DraftbenchError, match="are not numbers, after 0 tokens"):
        list(plain_decode(spoiled(), prompts[1:], settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [7, 512])
def test_one_value_that_is_no_number_is_seen_in_any_place(dtype: torch.dtype, vocab: int):
    logits = torch.randn(3, vocab).to(dtype)
    logits[1, vocab // 2] = math.nan
    logits[2, -1] = math.inf
    logits[0, 0] = -math.inf  # a token that is ruled out
    assert are_numbers(logits).tolist() == [True, False, False]
    assert NOT_NUMBERS < 0
    assert 0 <= int(draw(logits[1].float(), torch.tensor(0.5))) < vocab
