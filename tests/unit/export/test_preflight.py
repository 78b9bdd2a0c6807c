"""Twenty wrong pairs, each refused with the reason that the server itself would give; right pairs are not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import DeepseekV3Config, GPT2Config, LlamaConfig, MixtralConfig, OPTConfig, Qwen3MoeConfig

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.export.facts import Asked, ModelFacts, Pair, feed_forward_widths
from engine.export.preflight import EXPORTED_FOR, preflight, refuse
from engine.export.server_rules import RULES

TOKENS = tuple(f"t{i}" for i in range(300))
MODEL = ModelFacts(
    "m",
    "LlamaForCausalLM",
    320,
    TOKENS,
    bos=1,
    eos=2,
    context_tokens=4096,
    heads=8,
    merges=40,
    kv_heads=2,
    feed_forward=(96,),
)
RIGHT = Pair(MODEL, replace(MODEL, name="d", heads=4, feed_forward=(48,)))
OTHER_TEXTS = (*TOKENS[:7], "other", *TOKENS[8:])
PLAIN = Asked()


def draft(**changes: Any) -> Pair:
    return Pair(MODEL, replace(RIGHT.draft, **changes))


def target(**changes: Any) -> Pair:
    return Pair(replace(MODEL, **changes), RIGHT.draft)


def both(**changes: Any) -> Pair:
    return Pair(replace(MODEL, **changes), replace(MODEL, **changes))


SMOLLM = both(heads=9, kv_heads=3, feed_forward=(1536,), rows=49152)  # SmolLM2-135M, and a draft of its layers
QWEN = both(heads=28, kv_heads=4, feed_forward=(18944,), rows=152064)  # Qwen2.5-7B

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
     "AssertionError: assert self.total_num_heads % tp_size == 0 (3 % 2)"),
    ("sglang", RIGHT, Asked(proposals="sampled"), "it proposes by argmax alone"),
    ("vllm", draft(heads=3), Asked(tensor_parallel=2),
     "Total number of attention heads (3) must be divisible by tensor parallel size (2)."),
    ("vllm", SMOLLM, Asked(tensor_parallel=9), "1536 is not divisible by 9"),
    ("vllm", SMOLLM, Asked(tensor_parallel=9), "49152 is not divisible by 9"),
    ("sglang", SMOLLM, Asked(tensor_parallel=9), "1536 is not divisible by 9"),
    ("sglang", target(rows=300), Asked(tensor_parallel=3), "320 is not divisible by 3"),
    ("vllm", QWEN, Asked(tensor_parallel=7), "AssertionError: assert tp_size % self.total_num_kv_heads == 0 (7 % 4)"),
    ("sglang", QWEN, Asked(tensor_parallel=7), "assert tp_size % self.total_num_kv_heads == 0 (7 % 4)"),
    ("vllm", target(heads=12, kv_heads=6, rows=384), Asked(tensor_parallel=4),
     "assert self.total_num_kv_heads % tp_size == 0 (6 % 4)"),
    ("vllm", target(feed_forward=(96, 97)), Asked(tensor_parallel=2), "97 is not divisible by 2"),
    ("tensorrt-llm", SMOLLM, Asked(tensor_parallel=9), "out_features 3072 must be divisible by tp_size 9"),
    ("tensorrt-llm", target(feed_forward=(97,)), Asked(tensor_parallel=2),
     "in_features 97 must be divisible by tp_size 2"),
    ("tensorrt-llm", QWEN, Asked(tensor_parallel=7), "assert tensor_parallel_size % num_kv_heads == 0 (7 % 4)"),
    ("tensorrt-llm", target(heads=9), Asked(tensor_parallel=2),
     "assert self.num_heads % (tp_size * cp_size) == 0 (9 % 2)"),
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


@pytest.mark.parametrize(
    ("server", "pair", "parts"),
    [
        ("vllm", SMOLLM, 3),
        ("sglang", SMOLLM, 3),
        ("vllm", QWEN, 4),
        ("sglang", QWEN, 2),
        ("vllm", RIGHT, 4),  # key-value heads are repeated where there are fewer than devices
        ("tensorrt-llm", both(rows=300), 4),
        ("tensorrt-llm", both(heads=9, kv_heads=3, rows=257, feed_forward=(96,)), 3),  # it pads to any number
    ],
)
def test_what_devices_can_share_is_not_refused(server: str, pair: Pair, parts: int):
    assert preflight(server, pair, Asked(tensor_parallel=parts)) == []


@pytest.mark.parametrize(
    ("pair", "parts", "fix"),
    [
        (SMOLLM, 9, "give --tensor-parallel 3"),
        (QWEN, 7, "give --tensor-parallel 4"),
        (SMOLLM, 2, "leave --tensor-parallel out"),
        (QWEN, 10**12, "give --tensor-parallel 4"),
    ],
)
def test_the_fix_names_the_most_devices_that_both_models_allow(pair: Pair, parts: int, fix: str):
    assert {finding.fix for finding in preflight("vllm", pair, Asked(tensor_parallel=parts))} == {fix}


def test_what_both_models_have_is_said_once():
    found = preflight("vllm", SMOLLM, Asked(tensor_parallel=9))
    assert [finding.what for finding in found] == [
        "target and draft have 49,152 rows, which 9 devices cannot share",
        "target and draft have feed-forward layers 1,536 wide, which 9 devices cannot share",
    ]
    (one,) = preflight("vllm", draft(rows=320, feed_forward=(97,)), Asked(tensor_parallel=2))
    assert one.what == "the draft has feed-forward layers 97 wide, which 2 devices cannot share"


def test_a_width_that_settings_do_not_say_is_not_taken_as_right():
    found = preflight("vllm", draft(feed_forward=()), Asked(tensor_parallel=2))
    assert [(finding.level, "was not checked" in finding.fix) for finding in found] == [("warning", True)]


@pytest.mark.parametrize(
    ("config", "widths"),
    [
        (LlamaConfig(intermediate_size=1536), (1536,)),
        (GPT2Config(n_embd=64), (256,)),
        (GPT2Config(n_embd=64, n_inner=96), (96,)),
        (OPTConfig(ffn_dim=40), (40,)),
        (MixtralConfig(intermediate_size=80), (80,)),
        (Qwen3MoeConfig(intermediate_size=81, moe_intermediate_size=32), (32,)),  # no layer is whole
        (Qwen3MoeConfig(intermediate_size=81, moe_intermediate_size=32, mlp_only_layers=[0]), (32, 81)),
        (DeepseekV3Config(intermediate_size=81, moe_intermediate_size=32, first_k_dense_replace=1), (32, 81)),
        (SimpleNamespace(), ()),
    ],
)
def test_feed_forward_widths_are_read_from_the_settings(config: Any, widths: tuple[int, ...]):
    assert feed_forward_widths(config) == widths


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
