"""Models whose layers are stored in few bits: which library reads them, and what their weights are as plain numbers.

The packed tensors and `quantization_config` are files of the model folder, so its fingerprint covers them. Captures,
training and measurement use such a target as its library computes it. Where float32 is asked for (the certificate) or
layers are copied into a draft, the weights are the numbers that each layer multiplies by.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from engine.errors import DraftbenchError, boundary
from engine.models.folder import Settings

# Method in `quantization_config` -> packages that Transformers needs for it, by the names that are imported.
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto_round",),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "bitsandbytes_4bit": ("bitsandbytes",),
    "bitsandbytes_8bit": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "eetq": ("kernels",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "fouroversix": ("fouroversix",),
    "fp_quant": ("fp_quant",),
    "gptq": ("gptqmodel", "optimum"),
    "higgs": ("flute",),
    "hqq": ("hqq",),
    "metal": ("kernels",),
    "mxfp4": ("kernels",),
    "quanto": ("optimum.quanto",),
    "quark": ("quark",),
    "sinq": ("sinq",),
    "spqr": ("spqr_quant",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
_PIP = {"flute": "flute-kernel", "fbgemm_gpu": "fbgemm-gpu", "quark": "amd-quark", "optimum.quanto": "optimum-quanto"}
_FLOAT8 = ("fp8", "mxfp8")  # Transformers computes with them on a GPU, and unpacks them anywhere else
_FLOAT8_CAPABILITY = (8, 9)
_ORIGINAL = "use the original model in bfloat16 or float16"


def method_of(settings: Settings) -> str | None:
    """How the weights of a model are quantised by its `config.json`; None if they are plain."""
    config = settings.get("quantization_config")
    if config is None:
        return None
    method = str(config)
    if isinstance(config, dict):
        older = "bitsandbytes" if config.get("load_in_4bit") or config.get("load_in_8bit") else "?"
        method = str(config.get("quant_method") or older)
    return method.lower()[:60]


def check_quantised(folder: Path, settings: Settings) -> None:
    """Refuse weights that are quantised for a library that is not installed, naming the library."""
    method = method_of(settings)
    if method is None:
        return
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING and method != "bitsandbytes":
        raise DraftbenchError(
            f"could not load {folder}: its weights are quantised by {method!r}",
            "this method is not known, and without it the numbers in the file are not the weights",
            _ORIGINAL,
        )
    absent = [_PIP.get(name, name.replace("_", "-")) for name in _LIBRARIES.get(method, ()) if not _installed(name)]
    if absent:
        some = "the package" if len(absent) == 1 else "the packages"
        raise DraftbenchError(
            f"could not load {folder}: its weights are quantised by {method}",
            f"reading them needs {some} {' and '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not "
            "installed",
            f"pip install {' '.join(absent)}, or {_ORIGINAL}",
        )


def _installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of the package that contains a dotted name
        return False


def is_unpacked(method: str | None, device: torch.device) -> bool:
    """Whether weights of this method become plain numbers when they are loaded on this device.

    A GPU with kernels for float8 also rounds what its layers read, so it writes other text than the plain weights do:
    the two are different targets.
    """
    if method not in _FLOAT8:
        return False
    return device.type != "cuda" or torch.cuda.get_device_capability(device) < _FLOAT8_CAPABILITY


def unpacking(method: str | None, device: torch.device) -> dict[str, Any]:
    """Arguments with which Transformers loads weights of this method unpacked, where `is_unpacked`; else none."""
    if not is_unpacked(method, device):
        return {}
    from transformers import FineGrainedFP8Config

    return {"quantization_config": FineGrainedFP8Config(dequantize=True)}


def is_packed(model: Any) -> bool:
    """Whether a loaded model computes with quantised layers."""
    return getattr(model, "hf_quantizer", None) is not None


def is_exact(model: Any) -> bool:
    """Whether a model computes in float32 throughout, so that its text does not depend on kernels and batches."""
    return bool(model.dtype == torch.float32) and not is_packed(model)


def quantised_name(model: Any) -> str | None:
    """The method of a model's quantised layers with what tells its kinds apart; None for plain layers."""
    if not is_packed(model):
        return None
    settings = model.hf_quantizer.quantization_config.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    if method == "bitsandbytes":
        return f"{method} {settings.get('bnb_4bit_quant_type') if settings.get('load_in_4bit') else 'int8'}"
    kind = settings.get("quant_type") if method == "torchao" else settings.get("format") or settings.get("bits")
    if isinstance(kind, dict):
        kind = (kind.get("default") or {}).get("_type")
    return f"{method} {kind}" if isinstance(kind, str) else f"{method} {kind}-bit" if kind else method


def is_packed_layer(module: Any) -> bool:
    """Whether a module of such a model is a linear layer whose weights are not plain numbers."""
    if not hasattr(module, "in_features") or not hasattr(module, "out_features"):
        return False
    weight = getattr(module, "weight", None)
    plain = isinstance(weight, torch.Tensor) and type(weight.data) is torch.Tensor and weight.is_floating_point()
    return not (plain and type(module) is torch.nn.Linear)


def refuse_packed_ends(model: Any, name: str) -> None:
    """Refuse quantised embeddings or a quantised head: the signal and shared ends are made of their plain numbers."""
    for part, module in (("embeddings", model.get_input_embeddings()), ("output head", model.get_output_embeddings())):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or type(weight.data) is not torch.Tensor or weight.element_size() < 2:
            raise DraftbenchError(
                f"could not load {name}: its {part} {'are' if part == 'embeddings' else 'is'} quantised",
                "logits are computed from hidden states with the head's plain numbers, and drafts share both ends",
                "quantise the model without them, or use the original model",
            )


@torch.no_grad()
def plain_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in], float32, that a quantised linear layer multiplies by: what it makes of the unit vectors.

    So it is right for every library, up to the rounding of `dtype`, in which the layer computes.
    """
    device = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
    rows = torch.eye(layer.in_features, dtype=dtype, device=device)
    zero = torch.zeros(1, layer.in_features, dtype=dtype, device=device)
    columns: torch.Tensor = layer(rows).float() - layer(zero).float()
    return columns.T.contiguous()


def plain_value(layer: Any, key: str, dtype: torch.dtype) -> torch.Tensor:
    """Weight or bias of a quantised linear layer, as a plain layer would keep it."""
    bias: torch.Tensor = layer.bias
    return plain_weight(layer, dtype) if key == "weight" else bias.detach()


def plain_model(model: Any) -> Any:
    """A float32 model of the same kind with plain layers and new weights, on torch's current device."""
    config = type(model.config).from_dict({**model.config.to_dict(), "quantization_config": None})
    config._attn_implementation = model.config._attn_implementation
    config.dtype = torch.float32
    return type(model)(config).float().eval()


@torch.no_grad()
def unpacked_copy(model: Any, name: str) -> Any:
    """The model in float32 with plain layers, on the same device. `name`: of the model, for messages.

    What a layer reads is not rounded in it, also where its library would round that. Raises DraftbenchError for a
    layer that is not linear.
    """
    with boundary(f"{name} cannot be unpacked", _ORIGINAL):
        with torch.random.fork_rng(devices=[]):
            plain = plain_model(model).to(model.get_input_embeddings().weight.device)
        theirs = dict(model.named_modules())
        for place, module in plain.named_modules():
            own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            source = theirs.get(place)
            packed = isinstance(module, torch.nn.Linear) and is_packed_layer(source)
            for key, tensor in own.items():
                value = plain_value(source, key, model.dtype) if packed else getattr(source, key, None)
                if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
                    raise DraftbenchError(
                        f"{name} cannot be unpacked: {place}.{key} is not part of a linear layer",
                        "its library keeps it in a form of its own",
                        _ORIGINAL,
                    )
                tensor.copy_(value)
    plain.generation_config = model.generation_config
    return plain.requires_grad_(False)
