"""Twenty wrong pairs, each refused with the reason that the server itself would give; right pairs are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.export.facts import Asked, ModelFacts, Pair
from engine.export.preflight import EXPORTED_FOR, preflight, refuse
from engine.export.server_rules import RULES

TOKENS = tuple(f"t{i}" for i in range(300))
MODEL = ModelFacts("m", "LlamaForCausalLM", 320, TOKENS, bos=1, eos=2, context_tokens=4096, heads=8, merges=40)
RIGHT = Pair(MODEL, replace(MODEL, name="d", heads=4))
OTHER_TEXTS = (*TOKENS[:7], "other", *TOKENS[8:])
PLAIN = Asked()


def draft(**changes: Any) -> Pair:
    return Pair(MODEL, replace(RIGHT.draft, **changes))


def target(**changes: Any) -> Pair:
    return Pair(replace(MODEL, **changes), RIGHT.draft)


# server, pair, what is asked, the server's own words
WRONG = [
    ("vllm", draft(rows=321), PLAIN, "Target and draft model should have the same vocabulary size. Target model "
     "vocab_size=320. Draft model vocab_size=321."),
    ("vllm", draft(tokens=OTHER_TEXTS), PLAIN, "vLLM compares sizes alone"),
    ("vllm", target(heads=9), Asked(tensor_parallel=2),
     "Total number of attention heads (9) must be divisible by tensor parallel size (2)."),
    ("vllm", RIGHT, Asked(gamma=0), "Expected num_speculative_tokens to be greater than zero (0)."),
    ("vllm", RIGHT, Asked(context_tokens=9000), "User-specified max_model_len (9000) is greater than the derived "
     "max_model_len (max_position_embeddings=4096)"),
    ("vllm", RIGHT, Asked(target="apart"), "it is one model already"),
    ("sglang", draft(tokens=OTHER_TEXTS), PLAIN, "identical vocabularies (get_vocab()"),
    ("sglang", draft(tokens=TOKENS[:299]), PLAIN, "identical vocabularies (get_vocab()"),
    ("sglang", draft(rows=384), PLAIN, "row by row"),
    ("sglang", target(adapter_rank=8), Asked(target="apart"), "LoRA is only compatible with NGRAM, EAGLE"),
    ("sglang", draft(heads=3), Asked(tensor_parallel=2),
     "Total number of attention heads (3) must be divisible by tensor parallel size (2)."),
    ("sglang", RIGHT, Asked(proposals="sampled"), "it proposes by argmax alone"),
    ("llama.cpp", draft(tokenizer="Unigram"), PLAIN,
     "draft model vocab type must match target model to use speculation"),
    ("llama.cpp", target(adds_bos=True), PLAIN,
     "draft model bos tokens must match target model to use speculation. add: 1 - 0, id: 1 - 1)"),
    ("llama.cpp", Pair(replace(MODEL, adds_eos=True), replace(MODEL, adds_eos=True, eos=5)), PLAIN,
     "draft model eos tokens must match target model to use speculation. add: 1 - 1, id: 2 - 5)"),
    ("llama.cpp", draft(rows=449), PLAIN, "target vocab size 320 does not match draft vocab size 449 - difference 129, "
     "max allowed 128"),
    ("llama.cpp", draft(tokens=OTHER_TEXTS), PLAIN, "token 7 content differs - target 't7', draft 'other'"),
    ("llama.cpp", draft(merges=0), PLAIN, "cannot find tokenizer merges in model file"),
    ("llama.cpp", draft(no_gguf="its architecture is gpt2"), PLAIN, "its architecture is gpt2"),
    ("llama.cpp", RIGHT, Asked(gguf="q4_k_m"), "Quantization for Q4_K is not yet implemented"),
    ("llama.cpp", target(adapter_rank=8), Asked(target="apart"), "(--lora) in GGUF alone"),
    ("llama.cpp", target(quantised="gptq"), Asked(target="merged"), "no exact place in a GGUF file"),
    ("tensorrt-llm", draft(tokens=OTHER_TEXTS), PLAIN, "trained with the same tokenizer, else the acceptance rate is "
     "extremely low"),
    ("tensorrt-llm", draft(architecture="GPT2LMHeadModel"), PLAIN, "Unknown architecture"),
    ("transformers", draft(rows=321), PLAIN, "The main and assistant models have different tokenizers. Please provide "
     "`tokenizer` and `assistant_tokenizer` to `generate()`"),
    ("transformers", RIGHT, Asked(tensor_parallel=2), "assisted generate is only supported for batch_size = 1"),
    ("transformers", target(encoder_decoder=True), PLAIN, "are decoders"),
]  # fmt: skip


@pytest.mark.parametrize("server", EXPORTED_FOR)
def test_a_right_pair_is_served_without_a_word(server: str):
    assert preflight(server, RIGHT, PLAIN) == []
    assert preflight(server, RIGHT, Asked(gamma=5, context_tokens=2048, target="merged", gguf="q8_0")) == []


def test_there_are_at_least_twenty_wrong_pairs_of_every_server():
    assert len(WRONG) >= 20
    assert {server for server, *_ in WRONG} == set(EXPORTED_FOR) == set(RULES) <= SERVERS.keys()


@pytest.mark.parametrize(("server", "pair", "asked", "words"), WRONG)
def test_a_wrong_pair_is_refused_in_the_servers_words(server: str, pair: Pair, asked: Asked, words: str):
    findings = preflight(server, pair, asked)
    refused = [finding for finding in findings if finding.level == "refused"]
    assert [finding for finding in refused if words in finding.reason], findings
    assert all(finding.what and finding.fix for finding in refused)
    with pytest.raises(DraftbenchError) as error:
        refuse(server, findings)
    assert words in error.value.why
    assert error.value.fix


@pytest.mark.parametrize(
    ("server", "pair"),
    [
        ("llama.cpp", draft(rows=448)),  # 128 apart
        ("llama.cpp", draft(tokens=("x", *TOKENS[1:]))),  # ids before 5 may differ
        ("llama.cpp", draft(eos=9, bos=9)),  # compared only where they are added
        ("vllm", draft(tokens=TOKENS[:299])),  # padding rows that only one tokenizer names
    ],
)
def test_what_the_server_does_not_compare_is_not_refused(server: str, pair: Pair):
    assert preflight(server, pair, PLAIN) == []


@pytest.mark.parametrize("server", EXPORTED_FOR)
def test_a_draft_with_a_shorter_context_is_a_warning_and_the_command_is_limited(server: str):
    (finding,) = preflight(server, draft(context_tokens=2048), PLAIN)
    assert finding.level == "warning"
    assert "2048" in finding.fix
    assert draft(context_tokens=2048).context_tokens == 2048
    assert preflight(server, draft(context_tokens=2048), Asked(context_tokens=2048)) == []


def test_vllm_runs_a_draft_that_cannot_be_shared_on_one_device():
    (finding,) = preflight("vllm", draft(heads=3), Asked(tensor_parallel=2))
    assert (finding.level, '"draft_tensor_parallel_size": 1' in finding.fix) == ("warning", True)


def test_other_dtypes_own_code_and_int8_are_warnings():
    for pair in (draft(dtype="float32"), draft(own_code=True), target(quantised="int8")):
        assert [finding.level for finding in preflight("vllm", pair, PLAIN)] == ["warning"]


def test_refusals_come_before_warnings():
    findings = preflight("vllm", draft(rows=321, context_tokens=16), PLAIN)
    assert [finding.level for finding in findings] == ["refused", "warning"]


def test_an_unknown_server_is_refused_with_the_nearest_name():
    with pytest.raises(DraftbenchError, match="unknown server 'vlm'") as error:
        preflight("vlm", RIGHT, PLAIN)
    assert "vllm" in error.value.fix
