"""Settings of a GGUF file that Transformers does not read: set, known to be harmless, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine.errors import DraftbenchError
from engine.models.gguf import gguf_as_folder
from engine.models.gguf_header import GgufHeader
from engine.models.gguf_settings import apply_settings
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_gguf import write_family, write_gguf

pytestmark = pytest.mark.slow

IDS = torch.arange(5, 29).unsqueeze(0)
_SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def built(name: str, **settings: Any) -> Any:
    """A random model of a family, with weights large enough for every setting to show in the logits."""
    torch.manual_seed(0)
    kind = f"{name}TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, kind)(**{**_SIZES, **settings})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def rope(part: float, theta: float = 10_000.0) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": part}


_RMS, _NORM = {"attention.layer_norm_rms_epsilon": 1e-6}, {"attention.layer_norm_epsilon": 1e-5}
_LENGTHS = {"attention.key_length": 16, "attention.value_length": 16}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh"}


@pytest.mark.parametrize(
    ("family", "own", "arch", "settings"),
    [
        (
            "Gemma2",
            {**_GEMMA, "final_logit_softcapping": 1.5, "attn_logit_softcapping": 2.0, "sliding_window": 4},
            "gemma2",
            {
                **_RMS,
                **_LENGTHS,
                "attention.sliding_window": 4,
                "final_logit_softcapping": 1.5,
                "attn_logit_softcapping": 2.0,
            },
        ),
        (
            "Gemma2",  # the attention's scale
            {**_GEMMA, "query_pre_attn_scalar": 4, "sliding_window": 4},
            "gemma2",
            {**_RMS, **_LENGTHS, "attention.sliding_window": 4, "attention.scale": 0.5},
        ),
        (
            "Gemma3",
            {
                **_GEMMA,
                "sliding_window": 4,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                },
            },
            "gemma3",
            {
                **_RMS,
                **_LENGTHS,
                "attention.sliding_window": 4,
                "attention.sliding_window_pattern": [False, True, True, False],
                "rope.freq_base": 500.0,
                "rope.freq_base_swa": 50.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 8.0,
            },
        ),
        (
            "Phi3",
            {"vocab_size": 32_064, "rms_norm_eps": 1e-6, "sliding_window": 4, "rope_parameters": rope(0.5)},
            "phi3",
            {**_RMS, "attention.sliding_window": 4, "rope.dimension_count": 8, "rope.freq_base": 10_000.0},
        ),
        (
            "StableLm",
            {"rope_parameters": rope(0.5, 100.0), "use_parallel_residual": False},
            "stablelm",
            {**_NORM, "rope.dimension_count": 8, "rope.freq_base": 100.0, "use_parallel_residual": True},
        ),
        (
            "Nemotron",
            {"rope_parameters": rope(0.25), "norm_eps": 0.5, "head_dim": 16},
            "nemotron",
            {"attention.layer_norm_epsilon": 0.5, "rope.dimension_count": 4, "rope.freq_base": 10_000.0},
        ),
        (
            "Starcoder2",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "sliding_window": None},
            "starcoder2",
            {**_NORM, "rope.freq_base": 100.0, "rope.scaling.finetuned": True},
        ),
        (
            "Qwen3",
            {"head_dim": 32, "rms_norm_eps": 1e-6},
            "qwen3",
            {**_RMS, "attention.key_length": 32, "attention.value_length": 32, "rope.freq_base": 10_000.0},
        ),
    ],
)
def test_a_setting_is_the_source_models(
    tmp_path: Path, family: str, own: dict[str, Any], arch: str, settings: dict[str, Any]
):
    model = built(family, **own)
    path = write_family(tmp_path / "a.gguf", model, arch, settings)
    result = transformers.AutoModelForCausalLM.from_pretrained(gguf_as_folder(path)).eval()
    expected = model(input_ids=IDS).logits.detach()
    assert torch.allclose(result(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


_HEADS = {"attention.key_length": 128, "attention.value_length": 128}
_GEMMA4 = {"attention.key_length": 512, "attention.value_length": 512, "attention.key_length_swa": 256}


@pytest.mark.parametrize(
    ("arch", "settings", "config", "changed"),
    [
        ("gpt2", {"context_length": 512, "feed_forward_length": 3072}, "GPT2", {"n_positions": 512}),
        ("bloom", {"context_length": 2048, "feed_forward_length": 4096}, "Bloom", {}),
        ("mamba", {"context_length": 1 << 20, "feed_forward_length": 0, "attention.head_count": 0}, "Mamba", {}),
        ("falcon", {"attention.layer_norm_epsilon": 0.5}, "Falcon", {"layer_norm_epsilon": 0.5}),
        ("qwen3moe", {"expert_weights_norm": True}, "Qwen3Moe", {"norm_topk_prob": True}),
        ("phi3", {"rope.dimension_count": 96, "attention.sliding_window": 2047}, "Phi3", {"sliding_window": 2047}),
        ("minimax-m2", {**_HEADS, "expert_gating_func": 2}, "MiniMaxM2", {}),
        ("gemma4", {**_GEMMA4, "final_logit_softcapping": 30.0}, "Gemma4Text", {"final_logit_softcapping": 30.0}),
        ("gpt-oss", {"rope.scaling.type": "yarn"}, "GptOss", "gpt-oss.rope.scaling.type is yarn"),
        ("minimax-m2", {"expert_gating_func": 1}, "MiniMaxM2", "expert_gating_func is 1"),
        ("gemma4", {"attention.key_length_swa": 128}, "Gemma4Text", "key_length_swa is 128"),
        ("llama", {"expert_count": 8}, "Llama", "llama.expert_count is 8"),
    ],
)
def test_settings_of_released_files(arch: str, settings: dict[str, Any], config: str, changed: Any):
    values = {"general.architecture": arch, **{f"{arch}.{name}": value for name, value in settings.items()}}
    header, made = GgufHeader(Path("x"), values, {}, {}, ()), getattr(transformers, f"{config}Config")()
    before = made.to_dict()
    if isinstance(changed, str):
        with pytest.raises(ValueError, match=changed):
            apply_settings(header, made)
        return
    apply_settings(header, made)
    after = made.to_dict()
    assert {name: after[name] for name in before if after[name] != before[name]} == changed


def test_an_architecture_that_transformers_reads_whole_gets_its_settings_too(tmp_path: Path):
    """Its table puts the epsilon into a field that LFM-2 does not have."""
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    model = built("Lfm2", layer_types=kinds, block_auto_adjust_ff_dim=False, norm_eps=0.5, tie_word_embeddings=True)
    settings = {
        "attention.layer_norm_rms_epsilon": 0.5,
        "shortconv.l_cache": 3,
        "vocab_size": 259,
        "rope.freq_base": 1e6,
    }
    path = write_family(tmp_path / "a.gguf", model, "lfm2", settings, layered=[0, 2, 0, 2])
    result = transformers.AutoModelForCausalLM.from_pretrained(gguf_as_folder(path)).eval()
    assert torch.equal(result(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_logit_softcapping", 20.0),
        ("attention.sliding_window", 4.0),
        ("attention.value_length", 4.0),
        ("attention.scale", 0.1),
        ("rope.dimension_count_swa", 4.0),
        ("expert_weights_scale", 2.0),
        ("rope.scaling.type", "yarn"),
        ("a_setting_of_tomorrow", 1.0),
    ],
)
def test_a_setting_without_a_place_is_refused_by_its_name(tmp_path: Path, name: str, value: Any):
    path = write_gguf(tmp_path / "a.gguf", tiny_llama(vocab=259), byte_tokenizer(), settings={f"llama.{name}": value})
    with pytest.raises(DraftbenchError, match=rf"llama\.{name} is {value}"):
        gguf_as_folder(path)


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "attention.sliding_window", "residual_scale"])
def test_a_setting_that_says_none_is_harmless(tmp_path: Path, name: str):
    path = write_gguf(tmp_path / "a.gguf", tiny_llama(vocab=259), byte_tokenizer(), settings={f"llama.{name}": 0.0})
    assert (gguf_as_folder(path) / "config.json").is_file()
