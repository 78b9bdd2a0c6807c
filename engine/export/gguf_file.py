"""Write a model as a GGUF file, one tensor at a time.

Names come from the maps of the package `gguf`, which llama.cpp maintains. What a map does not say is here: llama.cpp
turns the two numbers of a rotary pair beside each other, Transformers those half a head apart, so the rows of q and k
of a Llama are put into its order. Vectors (norms, biases) stay float32, as llama.cpp demands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType, get_tensor_name_map
from gguf.quants import quant_shape_to_byte_shape, quantize

from engine.errors import DraftbenchError
from engine.export.gguf_tokenizer import tokenizer_fields, write_fields
from engine.models.head import DRAFT_IDS

Precision = Literal["f32", "f16", "bf16", "q8_0"]
_KINDS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
# model_type of Transformers -> architecture of llama.cpp, for those whose map and settings are checked by a test.
ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}
_ROPES = ("default", "llama3")
# The file has only the resulting table, from which a reader can tell no other rule (engine.models.gguf).
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class GgufFile:
    """A written file. `notes`: what of the model it could not hold as it is, in sentences."""

    path: Path
    precision: Precision
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """A tensor as it goes into the file."""

    name: str
    source: torch.Tensor
    kind: GGMLQuantizationType
    heads: int = 0  # of a rotary projection whose rows change their order

    @property
    def byte_shape(self) -> tuple[int, ...]:
        return tuple(quant_shape_to_byte_shape(tuple(self.source.shape), self.kind))

    def array(self) -> np.ndarray[Any, Any]:
        values = self.source.detach().to("cpu", torch.float32)
        if self.heads:
            values = rotary_pairs_together(values, self.heads)
        if self.kind == GGMLQuantizationType.F16 and float(values.abs().max()) > _LARGEST_F16:
            raise DraftbenchError(
                f"{self.name} has values above {_LARGEST_F16:,.0f}", "float16 cannot hold them", "use --gguf bf16"
            )
        return np.ascontiguousarray(quantize(values.contiguous().numpy(), self.kind))


def export_gguf(
    file: Path,
    model: Any,
    tokenizer: Any,
    *,
    precision: Precision = "f16",
    name: str = "draft",
    tokenizer_source: Path | None = None,
    stop_ids: Collection[int] = (),
) -> GgufFile:
    """Write a causal language model of Transformers with its tokenizer to the new GGUF file `file`.

    `model` is a Llama, Qwen2 or Qwen3 with all of its ids (`engine.export.whole_vocabulary`); its dtype does not
    matter. `tokenizer_source`: the GGUF file that the tokenizer came from, if there is one. `stop_ids`: what ends an
    answer. The file appears whole or not at all. Raises DraftbenchError for what llama.cpp could not compute as
    Transformers does.
    """
    arch = _architecture(model)
    plans, notes = _plans(model, arch, _KINDS[precision][0])
    rows = model.get_input_embeddings().weight.shape[0]
    fields, more = tokenizer_fields(tokenizer, rows, source=tokenizer_source, stop_ids=stop_ids)
    part = file.with_name(file.name + ".part")
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[arch])
    try:
        _add_settings(writer, model.config, rows, name)
        writer.add_file_type(_KINDS[precision][1])
        if precision == "q8_0":
            writer.add_quantization_version(2)
        write_fields(writer, fields)
        for plan in plans:
            shape = plan.byte_shape
            writer.add_tensor_info(plan.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=plan.kind)
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for plan in plans:
            writer.write_tensor_data(plan.array().view(np.uint8))
        writer.close()
        part.replace(file)
    finally:
        writer.close()
        part.unlink(missing_ok=True)
    return GgufFile(file, precision, (*notes, *more))


def rotary_pairs_together(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a q or k projection, [heads * width, ...], with the two of each rotary pair beside each other.

    Transformers turns row i of a head together with row i + width / 2, llama.cpp row 2i with row 2i + 1.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def unfit_for_gguf(config: Any) -> str:
    """Why a model of this configuration cannot be written, or read back for the check; '' if it can."""
    rope = _rope(config)
    limits = {
        f"its architecture is {config.model_type}, and GGUF is written of {', '.join(ARCHITECTURES)} alone": (
            config.model_type not in ARCHITECTURES
        ),
        f"its activation is {getattr(config, 'hidden_act', None)}": getattr(config, "hidden_act", "silu") != "silu",
        f"its positions are {rope.get('rope_type')}": rope.get("rope_type", "default") not in _ROPES,
        "its stretched positions are not those of Llama 3": rope.get("rope_type") == "llama3"
        and any(rope[key] != value for key, value in _LLAMA3.items()),
        "it rotates a part of each head": rope.get("partial_rotary_factor", 1.0) != 1.0,
        "it attends to a window": bool(getattr(config, "use_sliding_window", False)),
        # Transformers drops them without a word when it reads the file again, so nothing could be checked.
        "its layers have biases": bool(getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)),
    }
    return next((why for why, wrong in limits.items() if wrong), "")


def _architecture(model: Any) -> MODEL_ARCH:
    """The architecture of llama.cpp. Raises DraftbenchError for a model that it would not compute in the same way."""
    why = unfit_for_gguf(model.config)
    if getattr(model, DRAFT_IDS, None) is not None:
        why = "its vocabulary is trimmed"
    elif getattr(model.get_output_embeddings(), "bias", None) is not None:
        why = "its head has a bias"
    if why:
        raise DraftbenchError(
            f"{type(model).__name__} cannot be written as GGUF: {why}",
            f"this writer knows {', '.join(ARCHITECTURES)} with plain or Llama 3's positions; llama.cpp would "
            "compute something else than was measured, or it could not be checked",
            "export with --for transformers and convert the folder with llama.cpp's convert_hf_to_gguf.py",
        )
    return ARCHITECTURES[model.config.model_type]


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_settings(writer: GGUFWriter, config: Any, rows: int, name: str) -> None:
    """Everything that llama.cpp needs to know of the architecture."""
    width = _head_width(config)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(rows)


def _plans(model: Any, arch: MODEL_ARCH, kind: GGMLQuantizationType) -> tuple[list[_Plan], list[str]]:
    """Every parameter of the model with its place in the file, and the tensors that the precision does not fit."""
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    kept = model.state_dict().keys()
    tensors = dict(model.named_parameters()) | {key: t for key, t in model.named_buffers() if key in kept}
    plans, unfit = [], []
    for key, tensor in tensors.items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None or not tensor.is_floating_point():
            raise DraftbenchError(
                f"{type(model).__name__} cannot be written as GGUF: {key} ({tensor.dtype}) has no place in it",
                "a file without it would be another model",
                "export the draft of a target that is not quantised (target.quantize), or use --for transformers",
            )
        chosen = kind if tensor.ndim > 1 else GGMLQuantizationType.F32
        if chosen == GGMLQuantizationType.Q8_0 and tensor.shape[-1] % 32:
            chosen = GGMLQuantizationType.F16
            unfit.append(name)
        plans.append(_Plan(name, tensor, chosen, _rotary_heads(key, model.config) if arch == MODEL_ARCH.LLAMA else 0))
    frequencies = list(_stretched(model.config))
    notes = [f"{len(unfit)} tensors stay f16, for q8_0 takes rows of 32: {unfit[0]}"] if unfit else []
    return [*plans, *frequencies], notes


def _rotary_heads(key: str, config: Any) -> int:
    """The number of heads in a projection that is rotated, 0 for other tensors."""
    if ".q_proj." in key:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in key else 0


def _stretched(config: Any) -> Iterator[_Plan]:
    """Llama 3's rule for stretched positions as llama.cpp reads it: the divisor of each rotary frequency."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device=torch.device("cpu"))
    width = _head_width(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    yield _Plan("rope_freqs.weight", plain / slowed, GGMLQuantizationType.F32)
