"""The tiny Llama as a GGUF file, whole or with something wrong; written with the package that llama.cpp publishes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The model's tensors under llama.cpp's names; queries and keys in its order of rotary pairs."""
    config, tensors = model.config, {}
    for name, parameter in model.named_parameters():
        layer, tensor = "", parameter.detach()
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            number, stem = stem.removeprefix("model.layers.").split(".", 1)
            layer = f"blk.{number}."
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if stem in heads:
            shape = (heads[stem], 2, tensor.shape[0] // heads[stem] // 2, tensor.shape[1])
            tensor = tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape)
        tensors[f"{layer}{_NAMES[stem]}.weight"] = tensor
    return tensors


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    kind: str = "F32",
    keep: Callable[[str], bool] = lambda name: True,
    more: Iterable[tuple[str, torch.Tensor]] = (),
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write the model. `kind` is the type of its matrices; `keep` says which tensors are written, `more` are added."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    for name, value in (settings or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(name, value)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    for name, tensor in [*((n, t) for n, t in gguf_tensors(model).items() if keep(n)), *more]:
        array = tensor.float().contiguous().numpy()
        quantised = gguf.GGMLQuantizationType[kind]
        if tensor.dim() < 2 or kind == "F32":
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    words = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    words += [f"<unused{i}>" for i in range(vocab_size - len(words) - 1)] + ["Ġa"]  # the result of the merge
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<") and len(word) > 1 else 1 for word in words])
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tokenizer.chat_template)


def write_family(path: Path, model: Any, arch: str, settings: dict[str, Any], layered: list[int] | None = None) -> Path:
    """Write a model of another family as llama.cpp has it, with `settings` of its architecture beside the sizes.

    `layered`: the key-value heads of each layer, where they differ.
    """
    import gguf
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    from tests.conftest import byte_tokenizer

    config, writer = model.config, gguf.GGUFWriter(str(path), arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(layered or config.num_key_value_heads)
    for name, value in settings.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(f"{arch}.{name}", value)
    _add_tokenizer(writer, byte_tokenizer(), config.vocab_size)
    places = get_gguf_hf_weights_map(model, TENSOR_PROCESSORS.get(arch, TensorProcessor)(config=config.to_dict()))
    shift = float(arch in ("gemma2", "gemma3", "nemotron"))  # their norms are stored with 1 added
    for name, parameter in model.named_parameters():
        place = next(place for place, own in places.items() if own == name)
        value = parameter.detach() + shift * ("norm.weight" in place)
        writer.add_tensor(place, (value.squeeze(1) if "shortconv.conv" in place else value).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
