"""The settings in a GGUF header that Transformers does not read into its configuration.

Each key of the file's architecture is either read by Transformers, set here, or known to change nothing; a file with
any other is refused by the key's name. A setting that is missing is what llama.cpp takes it to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from engine.models.gguf_header import GgufHeader

# Values that say the same as no value, by key. 0 stands for "not used" in all of these.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none", ""),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "expert_weights_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "interleave_moe_layer_step": (0, 1),
    "moe_every_n_layers": (0, 1),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.head_count": (0,),
    "attention.max_alibi_bias": (0, 8),  # 8: the slopes of the paper, as Bloom has them
    "attention.scale": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "pooling_type": (0,),
    "ssm.dt_b_c_rms": (False,),
}
_HARMLESS = {
    "vocab_size": "the shapes of the tensors are compared with the configuration",
    "feed_forward_length": "as above",
    "expert_feed_forward_length": "as above",
    "expert_shared_feed_forward_length": "as above",
    "attention.head_count_kv": "as above: Falcon's one shared head is its default",
    "use_parallel_residual": "StableLM: llama.cpp and Transformers both go by the tensors",
    "tensor_data_layout": "the order of queries and keys, which is the one of the architecture's tables",
    "rope.scaling.finetuned": "how it was trained",
    "rope.scaling.original_context_length": "of the scaling, which is looked at by its type",
}
_SOFTMAX, _SIGMOID = 1, 2  # of routers, in llama.cpp's numbers
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_FIELDS = {
    "context_length": ("max_position_embeddings",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "attention.layer_norm_epsilon": _EPSILONS,
    "attention.layer_norm_rms_epsilon": _EPSILONS,
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "expert_weights_norm": ("norm_topk_prob",),
}
# Layers of the model whose attention llama.cpp scales by the width of all heads together, not by that of one.
_WIDE_SCALE = {"gemma2": 46, "gemma3": 62}
# Architectures under other names in Transformers' table.
_TABLES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}


def apply_settings(header: GgufHeader, config: Any) -> None:
    """Set in `config`, as Transformers read it from the file, the settings of the header that it left out.

    Raises ValueError with the name of a setting that this configuration has no place for.
    """
    arch, known = header.architecture, _read_by_transformers(header.architecture, config)
    settings = {**header.values, **header.lists, **{key: None for key in header.lengths if key not in header.lists}}
    for key in sorted(key for key in settings if key.startswith(f"{arch}.")):
        name, value = key.removeprefix(f"{arch}."), settings[key]
        linear = settings.get(f"{arch}.rope.scaling.type") == "linear"
        if name not in known and not _take(config, name, value, linear=linear):
            shown = "a list" if isinstance(value, tuple) or value is None else value
            raise ValueError(f"{key} is {shown}, which {type(config).__name__} cannot be given from GGUF")
    if "query_pre_attn_scalar" in config.to_dict() and not settings.get(f"{arch}.attention.scale"):
        whole = config.num_hidden_layers == _WIDE_SCALE.get(arch)
        _set(
            config,
            ("query_pre_attn_scalar",),
            config.hidden_size // config.num_attention_heads if whole else _head_width(config),
        )


def _read_by_transformers(arch: str, config: Any) -> set[str]:
    """The keys that Transformers puts into a field which this configuration has."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    table: dict[str, str | None] = GGUF_CONFIG_MAPPING.get(_TABLES.get(arch, arch), {})
    fields = {*type(config)().to_dict(), *config.attribute_map}
    return {key for key, field in table.items() if field in fields}


def _take(config: Any, name: str, value: Any, *, linear: bool) -> bool:
    """Whether a setting is in the configuration now, or changes nothing. `value`: None for a list too long to be one.

    `linear`: positions are stretched linearly, all by one factor.
    """
    special: dict[str, Callable[[], bool]] = {
        "rope.freq_base": lambda: _set_theta(config, "full_attention", value),
        "rope.freq_base_swa": lambda: _set_theta(config, "sliding_attention", value),
        "rope.scaling.type": lambda: linear,
        "rope.scaling.factor": lambda: linear and _set_stretch(config, value),
        "rope.dimension_count": lambda: _set_rotary_width(config, "full_attention", value),
        "rope.dimension_count_swa": lambda: _set_rotary_width(config, "sliding_attention", value),
        "attention.key_length": lambda: _set_head_width(config, value),
        "attention.value_length": lambda: _same(value, _head_width(config)),
        "attention.key_length_swa": lambda: _same(value, _head_width(config, "sliding_attention")),
        "attention.value_length_swa": lambda: _same(value, _head_width(config, "sliding_attention")),
        "expert_gating_func": lambda: value == (_SIGMOID if config.model_type == "minimax_m2" else _SOFTMAX),
        "attention.scale": lambda: _set_scale(config, value),
        "attention.sliding_window": lambda: _set_window(config, value),
        "attention.sliding_window_pattern": lambda: _set_pattern(config, value),
    }
    if value in _NEUTRAL.get(name, ()):
        return not (name.endswith("_softcapping") and _has(config, name)) or _set(config, (name,), None)
    if name in _HARMLESS:
        return not isinstance(value, tuple)
    if name in special:
        return special[name]()
    # a family without a limit, by ALiBi or a state, has no field for a context
    return _set(config, _FIELDS.get(name, ()), value) or name == "context_length"


def _has(config: Any, field: str) -> bool:
    return field in config.to_dict() or field in config.attribute_map


def _set(config: Any, fields: tuple[str, ...], value: Any) -> bool:
    """Set the first of the fields that the configuration has; one that is right already stays as it is."""
    field = next((field for field in fields if _has(config, field)), None)
    if field is None:
        return False
    if not _same(_value(config, field), value):
        setattr(config, field, value)
    return True


def _value(config: Any, field: str) -> Any:
    """Out of the dictionary where it is there: some settings of Gemma 4 may not be read as attributes."""
    values = config.to_dict()
    return values[field] if field in values else getattr(config, field, None)


def _per_layer(config: Any) -> dict[str, Any]:
    """What differs in some layers (Gemma 4: the width of the heads)."""
    layers: dict[str, Any] = config.to_dict().get("per_layer_config") or {}
    return layers


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _rope(config: Any, kind: str) -> dict[str, Any] | None:
    """The rotary settings of layers of that kind; None if the family has none, or none of the kind."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return None
    nested = any(isinstance(value, dict) for value in rope.values())
    of_kind: dict[str, Any] | None = rope.get(kind) if nested else rope if kind == "full_attention" else None
    return of_kind


def _set_theta(config: Any, kind: str, value: Any) -> bool:
    rope = _rope(config, kind)
    if rope is None:
        return False
    if not _same(rope.get("rope_theta"), value):
        rope["rope_theta"] = value
    return True


def _set_stretch(config: Any, factor: Any) -> bool:
    """Of Gemma 3's layers llama.cpp stretches those that are not local, as Google's configuration does."""
    rope = _rope(config, "full_attention")
    if rope is None or rope.get("rope_type", "default") != "default":
        return False
    rope |= {"rope_type": "linear", "factor": factor}
    return True


def _head_width(config: Any, kind: str = "full_attention") -> int:
    others = _per_layer(config).values() if kind == "full_attention" else ()
    own = max((layer.get("head_dim", 0) for layer in others), default=0) or _value(config, "head_dim")
    return int(own or config.hidden_size // config.num_attention_heads)


def _set_head_width(config: Any, value: Any) -> bool:
    if _same(value, _head_width(config)):
        return True
    return not _per_layer(config) and _set(config, ("head_dim",), int(value))


def _set_rotary_width(config: Any, kind: str, value: Any) -> bool:
    """The part of each head that is rotated, of which the file has the width and the configuration the share."""
    rope, width = _rope(config, kind), _head_width(config, kind)
    if rope is None:
        return False
    if "rope_type" in rope and rope["rope_type"] == "proportional":  # Gemma 4 counts the frequencies that are 0 too
        return _same(value, width)
    if int(width * rope.get("partial_rotary_factor", 1.0)) == value:
        return True
    if "partial_rotary_factor" not in rope:
        return False
    rope["partial_rotary_factor"] = value / width
    return _same(int(width * rope["partial_rotary_factor"]), value)


def _set_scale(config: Any, value: float) -> bool:
    if _has(config, "query_pre_attn_scalar"):
        width = round(value**-2)  # a whole number in the configuration
        return _same(width**-0.5, value) and _set(config, ("query_pre_attn_scalar",), width)
    return math.isclose(value, _head_width(config) ** -0.5, rel_tol=1e-6)


def _set_window(config: Any, value: Any) -> bool:
    """A window that no layer would use is none: of families that say which layers are local."""
    kinds = getattr(config, "layer_types", None)
    return (kinds is None or "sliding_attention" in kinds) and _set(config, ("sliding_window",), int(value))


def _set_pattern(config: Any, value: Any) -> bool:
    """Which layers are local: one truth per layer, or a number n, of which every n-th layer is not."""
    count = config.num_hidden_layers
    if not _has(config, "layer_types") or (isinstance(value, tuple) and len(value) != count) or not value:
        return False
    local = [bool(x) for x in value] if isinstance(value, tuple) else [(i + 1) % int(value) > 0 for i in range(count)]
    kinds = ["sliding_attention" if is_local else "full_attention" for is_local in local]
    if _per_layer(config) and kinds != config.layer_types:
        return False  # made for other layers
    return _set(config, ("layer_types",), kinds)
