"""Checkpoints of a training run: safetensors and JSON, complete or absent.

A checkpoint is a folder written under another name and renamed, so one with its final name is
whole. Only the newest is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, read_json, write_json
from engine.models.draft import Draft, kept_state

FOLDER = "checkpoints"  # in a run's folder
_PREFIX = "step-"
_SOURCE = "source.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    draft: Draft,
    moments: Mapping[str, torch.Tensor],
    state: dict[str, Any],
    source_state: dict[str, torch.Tensor],
) -> None:
    """Keep everything that step `step` (steps done) needs to go on; then drop older checkpoints.

    `moments`: as `moments_of` gives them. `source_state`: what the mode of training needs besides; empty for most. The
    files hold whole tensors, so that any number of processes can go on.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f".{final.name}.new"
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {name: t.cpu().contiguous() for name, t in kept_state(draft).items()}
        save_file(weights, temporary / "draft.safetensors")
        save_file({name: t.cpu().contiguous() for name, t in moments.items()}, temporary / "optimiser.safetensors")
        if source_state:
            save_file(source_state, temporary / _SOURCE)
        write_json(temporary / "state.json", {"step": step, **state})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    for old in folder.glob(f"{_PREFIX}*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None before the first."""
    return max(folder.glob(f"{_PREFIX}*"), default=None, key=lambda path: path.name)


def drop_checkpoints(run_folder: Path) -> None:
    """Remove what only a resume needs; of no use once the training is finished and says so on disk."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)


def load_checkpoint(path: Path, draft: Draft) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Put the weights back, bit for bit; returns the saved state and the weights."""
    weights = load_file(path / "draft.safetensors")
    own = kept_state(draft)
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in own.items()}:
        raise DraftbenchError(
            f"checkpoint {path} belongs to another draft", "its tensors differ in name or shape", "start a new run"
        )
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    state: dict[str, Any] = read_json(path / "state.json")
    return state, weights


def load_source_state(path: Path) -> dict[str, torch.Tensor]:
    """What the mode of training had kept in a checkpoint."""
    return load_file(path / _SOURCE) if (path / _SOURCE).exists() else {}


def moments_of(
    learning: Mapping[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    whole: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, tensor: tensor,
) -> dict[str, torch.Tensor]:
    """AdamW's per-parameter tensors as 'name/key'. `learning`: the parameters by name.

    `whole` makes a whole tensor of what is kept beside a parameter that is in pieces.
    """
    tensors = {}
    for name, parameter in learning.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = whole(name, torch.as_tensor(value).detach())
    return tensors


def restore_moments(
    path: Path,
    learning: Mapping[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    piece: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, tensor: tensor,
) -> None:
    """Put the moments of a checkpoint back, bit for bit; `piece` takes from a whole tensor what belongs here."""
    moments = load_file(path / "optimiser.safetensors")
    for name, parameter in learning.items():
        keys = [key for key in moments if key.rpartition("/")[0] == name]
        for full in keys:
            key = full.rpartition("/")[2]
            value = piece(name, moments[full])
            counts = key == "step" and not optimiser.defaults.get("fused")  # stay on the CPU, except in one kernel
            optimiser.state[parameter][key] = value if counts else value.to(parameter.device).contiguous()
