"""A tiny target whose layers are stored in float8, as DeepSeek's and Qwen's float8 checkpoints are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_BLOCK = 128
_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def in_float8(source: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Copy a model folder with its layers' projections in float8; returns all weights as the numbers stored, float32.

    Each block of 128 by 128 has a scale, which is the tiny model's whole matrix.
    """
    shutil.copytree(source, folder)
    stored: dict[str, torch.Tensor] = {}
    plain = load_file(source / "model.safetensors")
    for name, weight in list(plain.items()):
        if "_proj" not in name:
            stored[name] = weight
            continue
        scale = weight.abs().max() / _LARGEST
        stored[name] = (weight / scale).to(torch.float8_e4m3fn)
        stored[name.replace("weight", "weight_scale_inv")] = scale.reshape(1, 1)
        plain[name] = stored[name].float() * scale
        assert max(weight.shape) <= _BLOCK
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [_BLOCK, _BLOCK],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return plain
