"""Check a stranger's model folder before a library builds anything from it.

The libraries trust `config.json`: a billion layers are built until memory ends, a FIFO in place of the weights is read
for ever, and missing weights become random numbers. Here the settings are compared with file names, sizes and the
headers of the safetensors, which takes milliseconds.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch

from engine.errors import DraftbenchError, boundary

Settings = dict[str, Any]
"""The contents of a `config.json`."""

FIX = "the folder needs config.json, safetensors of a causal language model, and its tokenizer"
SETTINGS_BYTES = 16_000_000
_TOKENIZER_BYTES = 200_000_000
_READ_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# The deepest known models have about 200 layers and 512 experts.
_MAX_COUNTS = {"layers": 2_000, "experts": 20_000}
_COUNTED = {
    "layers": re.compile(r"^(n|num)_.*layers?$|^n_layer$|^(encoder|decoder)_layers$|^(num_)?(layers|blocks|depth)$"),
    "experts": re.compile(r"experts?$"),
}
_PLAIN = ("F64", "F32", "F16", "BF16")  # dtypes of weights that are not quantised


def check_files(folder: Path) -> None:
    """Refuse a folder in which a file that a library would read is not regular, or larger than such files are."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ_SUFFIXES:
            continue
        try:
            regular, size = path.is_file(), path.stat().st_size
        except OSError as error:  # a link to nothing, or to itself
            raise _refused(folder, f"{path.name} cannot be read: {error.strerror}") from error
        if not regular:
            raise _refused(folder, f"{path.name} is not a regular file")
        if path.suffix != ".safetensors" and size > (SETTINGS_BYTES if "config" in path.name else _TOKENIZER_BYTES):
            raise _refused(folder, f"{path.name} has {size:,} bytes")


def check_settings(folder: Path) -> Settings:
    """Read `config.json` after checking the folder's files and the counts in it."""
    check_files(folder)
    with boundary(f"could not load {folder}", FIX, "config.json cannot be read"):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise _refused(folder, f"config.json holds {type(settings).__name__}, not an object of settings")
    _check_counts(folder, settings)
    return settings


def _check_counts(folder: Path, settings: Settings) -> None:
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_counts(folder, value)
        for kind, pattern in _COUNTED.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and pattern.search(key) and not value <= _MAX_COUNTS[kind]:
                raise _refused(folder, f"config.json asks for {str(value)[:20]} {kind} ({key})")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model, all present. Pickles are not read, and an index may not point out of the folder."""
    index = folder / _INDEX
    if (folder / _SINGLE).exists():
        if index.exists() and _SINGLE not in _named(folder, index):
            raise DraftbenchError(
                f"could not load {folder}: it holds two models, {_SINGLE} and the files that {_INDEX} names",
                "one engine would read the first and another the second",
                "remove the files of an earlier save",
            )
        return [folder / _SINGLE]
    if not index.exists():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise DraftbenchError(
            f"could not load {folder}: it has no {_SINGLE}",
            f"pickled weights ({pickled[0]}) are not read, because they can run code" if pickled else "",
            "save the model again with save_pretrained, which writes safetensors" if pickled else FIX,
        )
    names = _named(folder, index)
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise _refused(folder, f"{_INDEX} names {name[:80]!r}, which is not a file of this folder")
        if not (folder / name).is_file():
            raise _refused(folder, f"{_INDEX} names {name}, which is missing")
    if not names:
        raise _refused(folder, f"{_INDEX} names no files")
    return [folder / name for name in names]


def _named(folder: Path, index: Path) -> list[str]:
    """The files that an index names."""
    with boundary(f"could not load {folder}", "fetch the model again", f"{_INDEX} cannot be read"):
        return sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})


def stored_tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Read shape and dtype of every tensor in a model's safetensors, by name, from the headers alone."""
    from safetensors import safe_open

    stored: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in weight_files(folder):
        damaged = boundary(f"could not load {folder}", "fetch the model again", f"{path.name} is damaged")
        with damaged, safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if name in stored:
                    raise _refused(folder, f"{name} is in two of its files, and it cannot be known which is meant")
                tensor = file.get_slice(name)
                stored[name] = tuple(tensor.get_shape()), str(tensor.get_dtype())
    if not stored:
        raise _refused(folder, "its safetensors hold no tensors")
    return stored


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return Transformers' configuration of the model, after checking the folder's settings."""
    from transformers import AutoConfig

    check_settings(folder)
    with boundary(f"could not load {folder}", FIX, "its config.json does not describe a known model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        depth = getattr(config.get_text_config(), "num_hidden_layers", 1)
    if depth is not None and not isinstance(depth, int):
        raise _refused(folder, f"config.json asks for {str(depth)[:40]!r} layers")
    return config


def outline(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """Create a model of the folder's configuration on the meta device, which has shapes but no weights."""
    from transformers import AutoModelForCausalLM

    config = read_config(folder, trust_remote_code=trust_remote_code)
    why = "no causal language model can be built from its config.json"
    with boundary(f"could not load {folder}", FIX, why), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def check_size(folder: Path, settings: Settings, *, trust_remote_code: bool = False) -> None:
    """Refuse settings that describe a larger model than the weights hold, before memory is allocated for it."""
    stored = stored_tensors(folder)
    packed = [name for name, (_, dtype) in stored.items() if dtype not in _PLAIN and name.endswith("weight")]
    if packed and settings.get("quantization_config") is None:
        kind = stored[packed[0]][1]
        raise _refused(folder, f"{packed[0]} is stored as {kind}, and config.json does not say how it was quantised")
    config = read_config(folder, trust_remote_code=trust_remote_code)
    depth = getattr(config.get_text_config(), "num_hidden_layers", None) or 1
    if depth > len(stored):
        raise _refused(folder, f"config.json asks for {depth:,} layers, and its weights are {len(stored):,} tensors")
    if trust_remote_code and "auto_map" in settings:
        return  # the user's own code, which may not support the meta device
    model = outline(folder, torch.float32)
    described = sum(p.numel() for p in model.parameters())
    held = sum(math.prod(shape) for shape, _ in stored.values())
    buffers = sum(b.numel() for b in model.buffers())
    if settings.get("quantization_config") is None and described > 1.02 * held + 1_000_000:
        raise _refused(folder, f"config.json describes {described:,} parameters, and its files hold {held:,}")
    if buffers > held + 200_000_000:
        raise _refused(folder, f"config.json describes tables of {buffers:,} numbers beside {held:,} parameters")


def _refused(folder: Path, why: str) -> DraftbenchError:
    return DraftbenchError(f"could not load {folder}: {why}", "", FIX)
