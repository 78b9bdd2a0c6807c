"""Tiny random models of the families that decoding is tried with, and ragged prompts for them."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WINDOW = 8  # tokens, fewer than most texts have
COMMON: dict[str, Any] = {
    "vocab_size": 258,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": True,
}
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}
NEO: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 4,
    "window_size": WINDOW,
    "max_position_embeddings": 512,
    "attention_types": [[["global", "local"], 2]],
}
SIDE_BY_SIDE: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 8},
    "olmo2": LLAMA,
    "stablelm": LLAMA,
    "cohere": LLAMA,
    "gemma": {**LLAMA, "head_dim": 8},
    "phi": LLAMA,
    "phi3": LLAMA,
    "granite": LLAMA,
    "smollm3": LLAMA,
    "mistral": {**LLAMA, "sliding_window": None},
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "gpt_neox": LLAMA,
    "falcon": {**LLAMA, "alibi": False, "multi_query": False},
    "gpt2": GPT2,
    "gptj": {**GPT2, "rotary_dim": 8},
    "codegen": {**GPT2, "rotary_dim": 8, "n_ctx": 512},
    "gpt_bigcode": GPT2,
    "opt": {**LLAMA, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2},
    "xglm": {"d_model": 32, "ffn_dim": 64, "num_layers": 3, "attention_heads": 4, "init_std": 0.2},
    "biogpt": LLAMA,
    "gpt_neo-global": {**NEO, "attention_types": [[["global"], 4]], "max_position_embeddings": 2048},
}
SIDE_BY_SIDE |= {
    "gpt_neo-short": {**NEO, "attention_types": [[["global"], 4]]},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4},  # slots are positions, so its slopes are right
}
WINDOWED: dict[str, dict[str, Any]] = {  # a window or chunk of 8 tokens, which most of the texts leave
    "mistral-window": {**LLAMA, "sliding_window": WINDOW},
    "mixtral-window": {**LLAMA, "num_local_experts": 4, "sliding_window": WINDOW},
    "qwen2-window": {**LLAMA, "sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3_moe-window": {
        **LLAMA,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "sliding_window": WINDOW,
        "use_sliding_window": True,
        "max_window_layers": 0,
    },
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": WINDOW},
    "gemma3_text": {**LLAMA, "head_dim": 8, "sliding_window": WINDOW, "num_hidden_layers": 6},
    "cohere2": {**LLAMA, "sliding_window": WINDOW, "num_hidden_layers": 4},
    "phi3-window": {**LLAMA, "sliding_window": WINDOW},
    "gpt_oss": {**LLAMA, "head_dim": 8, "sliding_window": WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1},
    "olmo3": {**LLAMA, "sliding_window": WINDOW, "num_hidden_layers": 4},
    "exaone4": {**LLAMA, "sliding_window": WINDOW, "sliding_window_pattern": 4, "num_hidden_layers": 4},
    "llama4_text": {
        **LLAMA,
        "head_dim": 8,
        "attention_chunk_size": WINDOW,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
    },
}
ROW_BY_ROW: dict[str, dict[str, Any]] = {
    "gpt_neo": NEO,
    "falcon-alibi": {**LLAMA, "alibi": True, "multi_query": False},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},  # slopes of ALiBi are made from a mask of columns
}
SIDE_BY_SIDE |= WINDOWED
KINDS = SIDE_BY_SIDE | ROW_BY_ROW


def made(name: str, settings: dict[str, Any], seed: int = 0) -> Any:
    """A random model of a few thousand parameters, float32, in evaluation mode."""
    config = AutoConfig.for_model(name.partition("-")[0], **{**COMMON, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)


def prompts(rows: int = 6, *, seed: int = 3) -> list[list[int]]:
    """Of 1 to 30 tokens, so that some are longer than the window before anything is written."""
    drawn = random.Random(seed)
    lengths = [3, 30, 1, 12, 21, 7, *(drawn.randint(1, 30) for _ in range(rows - 6))][:rows]
    return [[drawn.randrange(2, 258) for _ in range(length)] for length in lengths]
