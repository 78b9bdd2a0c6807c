"""Translate the settings of a configuration that describe layers when only some of the layers are kept.

Transformers has no common form for the kinds of layers. Some families list one entry per layer, some list the indices
of the special ones, some count from the front ("the first 3 are dense") or from the back ("the last 10 share their
keys"), some say "every fourth". An untranslated setting could turn a dense layer into a mixture of experts, so each
form is translated here; `engine.models.shallow` compares the result with the target, so that an unknown form is refused
and never guessed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import DraftbenchError

# Lists with one entry per layer whose name does not contain "layer".
_PER_LAYER = {
    "activation_sparsity_pattern",
    "block_types",
    "indexer_types",
    "intermediate_size",
    "kv_sharing_modes",
    "mlp_types",
    "moe_topk",
    "num_attention_heads",
    "num_experts",
    "num_key_value_heads",
    "sliding_windows",
    "swiglu_limits",
    "swiglu_limits_shared",
}
# Lists of the indices of layers.
_INDICES = {
    "attn_layer_indices",
    "cross_attention_layers",
    "full_attn_idxs",
    "global_layers",
    "kv_source_layers",
    "local_layer_ids",
    "mlp_only_layers",
    "moe_layer_indices",
    "moe_layers",
    "ple_layer_ids",
    "rope_scaling_layers",
    "sparse_layers",
}
# Numbers of layers counted from the first, and from the last.
_FROM_FRONT = {"first_k_dense_replace", "max_window_layers", "num_dense_layers", "num_first_full_attention_layers"}
_FROM_BACK = {"num_kv_shared_layers", "num_last_full_attention_layers"}
# Settings by layer index: {"5": {...}}.
_BY_INDEX = {"per_layer_config"}
# Settings of extra layers that predict further tokens, which are not in the model's own list.
_OTHER_LAYERS = ("mtp_", "num_nextn_", "num_mtp_")


def evenly_spaced(count: int, total: int) -> list[int]:
    """`count` evenly spaced layer indices of `total`, with the first and the last; a single one is the first."""
    if not 1 <= count <= total:
        raise DraftbenchError(
            f"draft.layers is {count}, the target has {total} layers", "", f"choose a number from 1 to {total}"
        )
    return [0] if count == 1 else [round(i * (total - 1) / (count - 1)) for i in range(count)]


def layer_indices(layers: int | list[int], total: int) -> list[int]:
    """The layer indices of a DraftSpec, checked against the target's number of layers."""
    if isinstance(layers, int):
        return evenly_spaced(layers, total)
    if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < total:
        raise DraftbenchError(
            f"draft.layers {layers} does not fit a target of {total} layers",
            "indices are distinct, ascending and start at 0",
            f"for example {evenly_spaced(min(4, total), total)}",
        )
    return layers


def settings_of_layers(settings: Mapping[str, Any], layers: Sequence[int], depth: int, count: str) -> dict[str, Any]:
    """Return the settings of a model with only `layers` of `depth`, each unchanged.

    `count` is the setting with the number of layers. Nothing else is changed, and nothing is checked.
    """
    kept = copy.deepcopy(dict(settings))
    for name, value in settings.items():
        if not name.startswith(_OTHER_LAYERS):
            kept[name] = _of_layers(name, value, layers, depth)
    kept.update(_without_steps(settings, layers, depth))
    if count in kept:
        kept[count] = len(layers)
    return kept


def _of_layers(name: str, value: Any, layers: Sequence[int], depth: int) -> Any:
    """Translate one setting for the layers that are kept."""
    if name in _INDICES and isinstance(value, (list, tuple)):
        return [new for new, old in enumerate(layers) if old in value]
    if isinstance(value, (list, tuple)) and len(value) == depth and ("layer" in name or name in _PER_LAYER):
        return [value[old] for old in layers]
    if name in _FROM_FRONT and isinstance(value, int):
        return sum(old < value for old in layers)
    if name in _FROM_BACK and isinstance(value, int):
        return sum(old >= depth - value for old in layers)
    if name in _BY_INDEX and isinstance(value, Mapping):
        return {new: value[key] for new, old in enumerate(layers) for key in (old, str(old)) if key in value}
    return copy.deepcopy(value)


def _without_steps(settings: Mapping[str, Any], layers: Sequence[int], depth: int) -> dict[str, Any]:
    """Replace rules such as 'every n-th layer' by lists, since the n-th of the kept layers is another one."""
    changed: dict[str, Any] = {}
    if {"attention_types", "attention_layers"} <= settings.keys():  # GPT-Neo's: the first is the second, shortened
        changed["attention_types"] = [[[settings["attention_layers"][old] for old in layers], 1]]
    if isinstance(settings.get("scale_depth"), (int, float)):  # MiniCPM's: divided by the root of the depth
        changed["scale_depth"] = settings["scale_depth"] * math.sqrt(len(layers) / depth)
    step = settings.get("decoder_sparse_step")
    if isinstance(step, int) and step > 1:  # Qwen's mixtures: the other layers are dense, as are those that are named
        dense = set(settings.get("mlp_only_layers") or []) | {i for i in range(depth) if (i + 1) % step}
        changed["mlp_only_layers"] = [new for new, old in enumerate(layers) if old in dense]
        changed["decoder_sparse_step"] = 1
    if {"moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"} <= settings.keys():  # Ernie's
        start, every = settings["moe_layer_start_index"], settings["moe_layer_interval"]
        end = settings["moe_layer_end_index"]
        end = depth - 1 if end == -1 else end
        sparse = [new for new, old in enumerate(layers) if start <= old <= end and (old + 1) % every == 0]
        first, last = (sparse[0], sparse[-1]) if sparse else (len(layers), len(layers))
        changed |= {"moe_layer_start_index": first, "moe_layer_end_index": last, "moe_layer_interval": 1}
    return changed


def needed_layers(config: Any) -> dict[int, int]:
    """Layer that reuses the result of an earlier one -> that earlier one, such as {29: 19}.

    Gemma's last layers take keys and values from the last layer of their type that has its own; sparse attention takes
    its selection of tokens from the nearest full indexer before it.
    """
    modes, types = getattr(config, "kv_sharing_modes", None), getattr(config, "layer_types", None)
    needs: dict[int, int] = {}
    if modes and types and len(modes) == len(types):
        stores = {types[i]: i for i, mode in enumerate(modes) if mode == "store"}
        needs |= {i: stores[types[i]] for i, mode in enumerate(modes) if mode == "reuse" and types[i] in stores}
    latest = None
    for i, kind in enumerate(getattr(config, "indexer_types", None) or []):
        latest = i if kind == "full" else latest
        if kind == "shared" and latest is not None:
            needs[i] = latest
    return needs


def with_needed(layers: Sequence[int], needs: Mapping[int, int]) -> list[int]:
    """The layers and those that they depend on, ascending."""
    return sorted({*layers, *(needs[i] for i in layers if i in needs)})
