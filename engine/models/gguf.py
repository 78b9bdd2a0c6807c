"""Convert a GGUF file to a plain model folder in the cache, once, one tensor at a time.

Transformers reads a GGUF file as a whole, with several copies in memory, fills missing tensors with random numbers and
drops those that it cannot place. Its tables (the parameter of each tensor, llama.cpp's permutations) are used here, but
not its reader.
"""

from __future__ import annotations

import math
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from engine.errors import boundary
from engine.fileio import content_hash, disk_errors, json_object, write_json
from engine.models.gguf_header import GgufHeader, GgufTensor, parts_of, read_whole
from engine.models.gguf_settings import apply_settings
from engine.models.hashes import remembered_sha256, sha256_now
from engine.models.tensor_file import TensorFile, TensorPlan
from engine.paths import cache_dir

# Goes up with every change to the conversion, so that older folders are not used.
# 2: earlier conversions could contain random numbers where the file lacked tensors.
# 3: and could lack settings that Transformers does not read, such as a window or a softcap.
_VERSION = 3
_FLOAT32, _FLOAT16, _BFLOAT16 = 0, 1, 30
_HALVES = {_FLOAT16: torch.float16, _BFLOAT16: torch.bfloat16}
_WHOLE_MODEL = ("qwen35", "qwen35moe", "lfm2")  # architectures that Transformers reads lazily, by other tables


def gguf_as_folder(path: Path, *, read: bool = False) -> Path:
    """Return the folder with `config.json`, safetensors and tokenizer of a GGUF file, or of all parts of a split one.

    Values keep their precision: float16 and bfloat16 matrices keep their dtype, and quantised blocks become float32,
    because bfloat16 cannot hold their values. The folder is named by the file's hash, and its files are compared with
    the hashes of what was written, so that a damaged conversion is repeated; `read`: ignore the remembered hashes.
    Raises DraftbenchError for a file that is not a complete model, of which nothing is kept.
    """
    hashes = [remembered_sha256(part) for part in parts_of(path)]
    source_hash = hashes[0] if len(hashes) == 1 else content_hash(hashes)
    folder = cache_dir() / "models" / f"gguf-{source_hash[:16]}-{_VERSION}"
    if _is_whole(folder, read):
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not _is_whole(folder, read):
                _convert(path, folder)
    return folder


def _record(folder: Path) -> Path:
    return folder.with_suffix(".json")  # beside the folder, whose contents determine the model's fingerprint


def _is_whole(folder: Path, read: bool) -> bool:
    """Whether the folder still holds what its conversion wrote."""
    if not (folder.is_dir() and _record(folder).is_file()):
        return False
    return json_object(_record(folder).read_bytes()) == _hashes(folder, sha256_now if read else remembered_sha256)


def _hashes(folder: Path, sha256: Callable[[Path], str]) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}


def _convert(path: Path, folder: Path) -> None:
    """Convert the file to a complete folder, or to none. The caller holds the lock."""
    for leftover in folder.parent.glob(f".{folder.name}-*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    header = read_whole(path)
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    temporary.mkdir()  # not mkdtemp, whose 0700 would lock others out of a shared cache
    try:
        with boundary(
            f"{path} could not be read as a GGUF model",
            "check that the file is whole and of an architecture that Transformers reads from GGUF, or use "
            "the model that it was made from",
        ):
            _write_model(header, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        write_json(_record(folder), _hashes(folder, sha256_now))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_model(header: GgufHeader, folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    # The library looks for more files beside the given one, so it gets a folder with nothing else.
    with tempfile.TemporaryDirectory(prefix="draftbench-gguf-") as alone:
        (Path(alone) / "model.gguf").symlink_to(parts_of(header.path)[0].resolve())
        source: dict[str, Any] = {"pretrained_model_name_or_path": alone, "gguf_file": "model.gguf"}
        config = AutoConfig.from_pretrained(**source)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        apply_settings(header, config)
        if header.architecture in _WHOLE_MODEL:
            model = _write_whole(header, config, source, folder)
        else:
            config.tie_word_embeddings = all(tensor.name != "output.weight" for tensor in header.tensors)
            model = _write_by_tensor(header, config, folder)
    if "local_files_only" in tokenizer.init_kwargs:  # not a property of the model
        tokenizer.init_kwargs["local_files_only"] = False
    tokenizer.save_pretrained(folder)
    _write_settings(model, folder)


def _write_by_tensor(header: GgufHeader, config: Any, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    frequencies = next((t for t in header.tensors if t.name == "rope_freqs.weight"), None)
    if frequencies is not None:
        scale_positions(config, frequencies)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
    places = get_gguf_hf_weights_map(model, processor)
    sources = _sources([t for t in header.tensors if t is not frequencies], places)
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    kept = model.state_dict().keys()
    wanted |= {name: tuple(b.shape) for name, b in model.named_buffers() if name in kept}
    _check_sources(sources, wanted)
    plans = {name: TensorPlan(shape, _dtype(sources[name])) for name, shape in wanted.items()}
    arrived: dict[str, torch.Tensor] = {}
    with TensorFile(folder / "model.safetensors", plans) as file:
        for name, tensors in sources.items():
            for tensor in tensors:
                array = _read(tensor, plans[name].dtype)
                done = processor.process(
                    array, tensor.name, tensor_key_mapping=places, parsed_parameters={"tensors": arrived}
                )
                if done.name is not None:
                    arrived[name] = _torch(done.weights)
            value = arrived.pop(name)
            file.write(name, value.view(torch.bfloat16) if value.dtype == torch.int16 else value)
    return model


def _sources(tensors: list[GgufTensor], places: dict[str, str]) -> dict[str, list[GgufTensor]]:
    """The tensors of the file by their parameter; some hold a part of one (gate and up of experts)."""
    sources: dict[str, list[GgufTensor]] = {}
    unplaced = []
    for tensor in tensors:
        name = places.get(tensor.name) or places.get(tensor.name.removesuffix(".weight"))
        if name is None and tensor.name == "output.weight":
            name = "lm_head.weight"  # architectures whose processor places the head itself
        if name is None:
            unplaced.append(tensor.name)
        else:
            sources.setdefault(name, []).append(tensor)
    if unplaced:
        raise ValueError(f"{len(unplaced)} of its tensors have no place in the model, such as {min(unplaced)}")
    return sources


def _check_sources(sources: dict[str, list[GgufTensor]], wanted: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(wanted.keys() - sources.keys())
    if missing:
        raise ValueError(f"it lacks {len(missing)} tensors of the model, such as {missing[0]}")
    extra = sorted(sources.keys() - wanted.keys())
    if extra:
        raise ValueError(f"{len(extra)} of its tensors have no place in the model, such as {sources[extra[0]][0].name}")
    for name, shape in wanted.items():
        held = sum(math.prod(tensor.shape) for tensor in sources[name])
        if held != math.prod(shape):
            shapes = ", ".join(str(list(tensor.shape)) for tensor in sources[name])
            raise ValueError(f"{name} has shape {shapes} in the file, and its settings say {list(shape)}")


def _dtype(tensors: list[GgufTensor]) -> torch.dtype:
    """The dtype that holds the values; vectors are float32, since some are shifted or their logarithm is taken."""
    kinds = {tensor.kind for tensor in tensors}
    matrices = all(len(t.shape) > 1 and "norm" not in t.name and "ssm_a" not in t.name for t in tensors)
    return _HALVES.get(kinds.pop(), torch.float32) if len(kinds) == 1 and matrices else torch.float32


def _read(tensor: GgufTensor, dtype: torch.dtype) -> Any:
    """The tensor's values as float32 or float16; bfloat16, which NumPy does not have, as int16 with the same bits."""
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    raw = np.memmap(tensor.file, mode="r", dtype=np.uint8, offset=tensor.start, shape=(tensor.size_bytes,))
    if dtype == torch.float16:
        return raw.view(np.float16).reshape(tensor.shape)
    if dtype == torch.bfloat16:
        return raw.view(np.int16).reshape(tensor.shape)
    kind = GGMLQuantizationType(tensor.kind)
    if kind == GGMLQuantizationType.F32:
        return raw.view(np.float32).reshape(tensor.shape)
    if kind == GGMLQuantizationType.F16:
        return raw.view(np.float16).reshape(tensor.shape).astype(np.float32)
    return dequantize(raw.reshape(quant_shape_to_byte_shape(tensor.shape, kind)), kind)


def _torch(array: Any) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.array(array))


def scale_positions(config: Any, tensor: GgufTensor) -> None:
    """Set the rule for stretched positions (Llama 3.1 and later), of which llama.cpp writes the resulting table."""
    stretch = _torch(_read(tensor, torch.float32)).double()
    factor = float(stretch.max())
    rule = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": config.rope_parameters["rope_theta"],
    }
    if not torch.allclose(stretch, _llama3_stretch(rule, 2 * len(stretch)), rtol=1e-4):
        raise ValueError("its rope_freqs.weight follows no rule for stretched positions that is known here")
    if factor != 1.0:
        config.rope_parameters = rule


def _llama3_stretch(rule: dict[str, Any], width: int) -> torch.Tensor:
    """The divisor of each rotary frequency, [width / 2], by the rule of Llama 3.1."""
    wavelength = 2 * math.pi * rule["rope_theta"] ** (torch.arange(0, width, 2).double() / width)
    turns = rule["original_max_position_embeddings"] / wavelength
    low, high = rule["low_freq_factor"], rule["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    stretch: torch.Tensor = 1 / ((1 - smooth) / rule["factor"] + smooth)
    return stretch


def _write_whole(header: GgufHeader, config: Any, source: dict[str, Any], folder: Path) -> Any:
    """Convert an architecture whose tensors Transformers itself reads one at a time, and check its report."""
    from transformers import AutoModelForCausalLM

    kinds = {tensor.kind for tensor in header.tensors}
    dtype = next((_HALVES[kind] for kind in (_BFLOAT16, _FLOAT16) if kind in kinds), torch.float32)
    if kinds - {_FLOAT32, *_HALVES}:
        dtype = torch.float32
    if len({tensor.file for tensor in header.tensors}) > 1:
        raise ValueError(f"a split file of {header.architecture} must be joined with `gguf-split --merge` first")
    model, report = AutoModelForCausalLM.from_pretrained(**source, config=config, dtype=dtype, output_loading_info=True)
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"], *(k[0] for k in report["mismatched_keys"])})
    if wrong:
        raise ValueError(f"{len(wrong)} of its tensors are missing or fit nothing, such as {wrong[0]}")
    state = dict(model.named_parameters())
    state |= {name: b for name, b in model.named_buffers() if name in model.state_dict()}
    with TensorFile(
        folder / "model.safetensors", {name: TensorPlan(tuple(t.shape), t.dtype) for name, t in state.items()}
    ) as file:
        for name, tensor in state.items():
            file.write(name, tensor)
    return model


def _write_settings(model: Any, folder: Path) -> None:
    """`config.json` and `generation_config.json`, as `save_pretrained` of the model would write them."""
    from safetensors import safe_open

    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        largest = max(file.keys(), key=lambda name: math.prod(file.get_slice(name).get_shape()))
        dtype = file.get_slice(largest).get_dtype()
    config.dtype = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[dtype]
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
