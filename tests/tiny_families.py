"""Tiny random models of every causal family that Transformers knows, for tests and for benchmarks/architectures.py."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch

LAYERS = 6  # enough for every second, third and fourth layer to be of another kind

# What makes a configuration small: each family takes those of these settings that it has.
SMALL: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    # other words for the same
    "n_embd": 32,
    "n_head": 4,
    "n_layer": LAYERS,
    "n_positions": 512,
    "n_inner": 64,
    "d_model": 32,
    "n_layers": LAYERS,
    "n_heads": 4,
    "num_layers": LAYERS,
    "num_heads": 4,
    "dim_model": 32,
    "dim_ff": 64,
    "ffn_hidden_size": 64,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "attention_hidden_size": 32,
    "rotary_dim": 8,
    "max_seq_len": 512,
    "encoder_layers": 2,
    "decoder_layers": LAYERS,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    # compressed and sparse attention
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 4,
    "sliding_window": 4,
    "attention_chunk_size": 8,
    "global_head_dim": 8,
    "intermediate_size_mlp": 64,
    # mixtures of experts
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "num_experts": 4,
    "num_local_experts": 4,
    "shared_expert_intermediate_size": 32,
    "moe_num_experts": 4,
    "moe_k": 1,
    "moe_topk": 1,
    "shared_intermediate_size": 32,
    # embeddings for each layer
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 258,
    "laurel_rank": 4,
    # states that are carried along
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "state_size": 8,
    "conv_kernel": 2,
    "ssm_state_size": 8,
}
_COMPRESSED = "kv_lora_rank"  # families with it have as many keys as heads, and compute how wide they are

_SLIDING, _FULL = "sliding_attention", "full_attention"
# Families whose layers are of several kinds, and how the tiny model mixes them: {name: (model_type, settings)}.
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "DeepSeek-V3, dense first": ("deepseek_v3", {"first_k_dense_replace": 2}),
    "GLM-4.5-MoE, dense first": ("glm4_moe", {"first_k_dense_replace": 1}),
    "Ernie-4.5-MoE, dense first": ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_end_index": 5}),
    "Ernie-4.5-MoE, dense at both ends": ("ernie4_5_moe", {"moe_layer_start_index": 1, "moe_layer_end_index": 4}),
    "LFM-2-MoE, dense first": (
        "lfm2_moe",
        {"num_dense_layers": 2, "layer_types": [_FULL] * 3 + ["conv"] * 2 + [_FULL]},
    ),
    "Qwen2-MoE, a dense one": ("qwen2_moe", {"mlp_only_layers": [5]}),
    "Qwen2-MoE, all indices dense": ("qwen2_moe", {"mlp_only_layers": [0, 1, 2, 3, 4, 5]}),
    "Qwen3-MoE, every second sparse": ("qwen3_moe", {"decoder_sparse_step": 2}),
    "Qwen3-MoE, both ways": ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
    "Qwen3-Next, every second sparse": ("qwen3_next", {"decoder_sparse_step": 2}),
    "Qwen2, sliding behind": ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}),
    "GLM-MoE-DSA, shared indexers": (
        "glm_moe_dsa",
        {"indexer_types": ["full", "shared", "shared", "full", "shared", "shared"]},
    ),
    "Llama-4, every second sparse": ("llama4_text", {"interleave_moe_layer_step": 2}),
    "Llama-4, sparse by name": ("llama4_text", {"moe_layers": [0, 3]}),
    "Llama-4, none sparse": ("llama4_text", {"moe_layers": []}),
    "SmolLM-3, positions left out": ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1, 0]}),
    "GPT-Neo, local and global": ("gpt_neo", {"attention_types": [[["global", "local"], 3]]}),
    "GPT-OSS, sliding and full": ("gpt_oss", {}),
    "Hunyuan-MoE, experts listed": ("hunyuan_v1_moe", {"moe_topk": [1, 2, 1, 2, 1, 1]}),
    "GPT-2, scaled by place": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "Gemma-3n": (
        "gemma3n_text",
        {
            "layer_types": [_SLIDING, _FULL] * 3,
            "num_kv_shared_layers": 2,
            "intermediate_size": [64, 64, 64, 64, 96, 96],
            "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
        },
    ),
    "Gemma-3n, nothing shared": ("gemma3n_text", {"layer_types": [_FULL] * 6, "num_kv_shared_layers": 0}),
    "Gemma-4": ("gemma4_text", {"layer_types": [_SLIDING, _SLIDING, _FULL] * 2, "num_kv_shared_layers": 0}),
    "Gemma-4, shared keys": (
        "gemma4_text",
        {
            "layer_types": [_SLIDING, _FULL] * 3,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        },
    ),
    "Gemma-4, experts": (
        "gemma4_text",
        {
            "layer_types": [_SLIDING, _FULL] * 3,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 1,
        },
    ),
    "Gemma-4, no embeddings by layer": ("gemma4_text", {"layer_types": [_FULL] * 6, "hidden_size_per_layer_input": 0}),
    "MiniCPM-3, scaled by depth": ("minicpm3", {}),
    "DiffLlama, a constant by place": ("diffllama", {}),
    "DBRX": (
        "dbrx",
        {
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 2},
        },
    ),
}

_EYES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
# Models that also see: their configuration holds that of the part that writes.
SEEING: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma-3 with eyes": (
        "gemma3",
        {"vision_config": {**_EYES, "image_size": 16, "patch_size": 8}, "mm_tokens_per_image": 4},
    ),
    "Gemma-4 with eyes": (
        "gemma4",
        {
            "vision_config": {
                **_EYES,
                "head_dim": 8,
                "num_key_value_heads": 4,
                "position_embedding_size": 16,
            },
            "audio_config": None,
        },
    ),
    "Llama-4 with eyes": ("llama4", {}),
    "Qwen-3.5 with eyes": ("qwen3_5", {}),
    "Emu-3": ("emu3", {}),
    "Mllama": ("mllama", {"text_config": {"cross_attention_layers": [3]}}),
    "Mistral-3 with eyes": ("mistral3", {}),
    "Qwen-2.5-VL": ("qwen2_5_vl", {}),
    "LLaVA": ("llava", {}),
    "T5, an encoder and a decoder": ("t5", {}),
    "BART, an encoder and a decoder": ("bart", {"is_encoder_decoder": True}),
}


def small_config(kind: str, **changes: Any) -> Any:
    """A configuration of that model type whose model has some 100,000 parameters; raises what its family raises."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _small(CONFIG_MAPPING[kind], changes)


def _small(family: Any, changes: dict[str, Any]) -> Any:
    names = (
        {field.name for field in dataclasses.fields(family)}
        if dataclasses.is_dataclass(family)
        else set(inspect.signature(family.__init__).parameters)
    )
    settings = {name: value for name, value in SMALL.items() if name in names}
    if _COMPRESSED in names:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
        settings.pop("head_dim", None)
    text = (getattr(family, "sub_configs", None) or {}).get("text_config")
    if text is not None and dataclasses.is_dataclass(text):
        changes = {**changes, "text_config": _small(text, changes.get("text_config", {}))}
    return family(**{**settings, **changes})


def random_model(config: Any, *, seed: int = 0) -> Any:
    """A float32 causal model of the configuration in which no tensor is constant, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith("bias"):  # ones and zeros would hide what they are multiplied with
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not float(parameter.std()) > 0.1:
                torch.nn.init.normal_(parameter, std=0.1)
        kept = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in kept and buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer) * 0.5)
        return model
