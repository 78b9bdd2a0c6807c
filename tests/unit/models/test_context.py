"""How long a text a model can read: by every family's word for it, and of a pair the shorter of the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from engine.capture.plan import plan_capture
from engine.config.schema import CaptureSpec, DraftSpec
from engine.decode.one_prompt import decode_prompt, question
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.errors import DraftbenchError
from engine.models.context import context_of, least_context, refuse_beyond_draft
from engine.models.draft import initialise_draft
from engine.models.head import text_config
from tests.conftest import tiny_llama
from tests.tiny_families import SEEING, random_model, small_config
from tests.tiny_pair import as_draft, loaded


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (transformers.LlamaConfig(max_position_embeddings=77), 77),
        (transformers.GPT2Config(n_positions=77), 77),
        (transformers.MptConfig(max_seq_len=77), 77),
        (transformers.Gemma3Config(text_config={"max_position_embeddings": 77}), 77),
        (transformers.LlavaConfig(text_config=transformers.LlamaConfig(max_position_embeddings=77)), 77),
        (transformers.BloomConfig(), None),
        (transformers.MambaConfig(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_configuration_says_how_much_its_model_reads(config: Any, tokens: int | None):
    assert context_of(config) == tokens
    assert context_of(config.to_dict()) == tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gemma-3 with eyes", "Gemma-4 with eyes", "Llama-4 with eyes"])
def test_a_target_that_sees_reads_as_much_as_its_text_part(tmp_path: Path, name: str):
    kind, settings = SEEING[name]
    target = loaded(random_model(small_config(kind, **settings)))
    assert target.context_tokens == text_config(target.model).max_position_embeddings
    with pytest.raises(DraftbenchError, match=f"at most {target.context_tokens - 8} fit"):
        plan_capture(tmp_path, target, [question("long " * target.context_tokens)], CaptureSpec(max_new_tokens=8))


def test_a_pair_reads_what_both_can():
    assert least_context(None, None) is None
    assert least_context(64, None, 32) == 32


def test_texts_beyond_the_drafts_context_are_refused_with_their_number():
    draft = tiny_llama(max_position_embeddings=64)
    refuse_beyond_draft(draft, [("a", 64), ("b", 3)])
    with pytest.raises(DraftbenchError, match=r"prompt 'b' .* 66 tokens, and the draft reads 64 at most \(2 of 3"):
        refuse_beyond_draft(draft, [("a", 65), ("b", 66), ("c", 1)])


def test_one_prompt_has_room_in_the_context_of_its_draft_too():
    target, draft = loaded(tiny_llama()), as_draft(tiny_llama(max_position_embeddings=64, layers=1))
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), 40, frozenset())
    asked = question("A question of some length, which with its answer has more than 64 tokens?")
    decode_prompt(target, None, asked, settings)
    decode_prompt(target, initialise_draft(target, DraftSpec(layers=2), seed=0), asked, settings)
    with pytest.raises(DraftbenchError, match=r"prompt 'prompt' and its answer may have .* the draft reads 64 at most"):
        decode_prompt(target, draft, asked, settings)
