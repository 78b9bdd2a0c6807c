"""Hash the embeddings and the output head of a model: the part that drafts share with their target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.fileio import read_object
from engine.models.adapter import CONFIG

_INPUT = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_OUTPUT = ("lm_head.weight", "embed_out.weight")


def embeddings_hash(weights: Iterable[torch.Tensor]) -> str:
    """Hex sha256 of the input embeddings, and of the head if it is another tensor.

    The values are hashed as bfloat16, so that a target has the same hash in every dtype; a fine-tuned target whose
    embeddings were not changed has the hash of its base.
    """
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def stored_embeddings_hash(folder: Path) -> str | None:
    """The `embeddings_hash` of a model on disk, without loading the rest; None if its tensors have other names."""
    stored = _stored_ends(folder, read_object(folder / "config.json"))
    return embeddings_hash(stored) if stored else None


def stored_ends(folder: Path, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
    """Hashes of a stored model's embeddings and of its head; None if its tensors have other names.

    `config`: its settings, if they are not in `config.json`.
    """
    settings = read_object(folder / "config.json") if config is None else config
    stored = _stored_ends(folder, settings)
    if len(stored) < (1 if settings.get("tie_word_embeddings") else 2):
        return None
    return embeddings_hash(stored[:1]), embeddings_hash(stored[-1:])


def _stored_ends(folder: Path, settings: Mapping[str, Any]) -> list[torch.Tensor]:
    tied = settings.get("tie_word_embeddings", False)
    kinds = (_INPUT,) if tied else (_INPUT, _OUTPUT)
    weights: dict[tuple[str, ...], torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                for kind in kinds:
                    if name.endswith(kind):
                        weights[kind] = tensors.get_tensor(name)
    return [weights[kind] for kind in kinds if kind in weights] if _INPUT in weights else []


def touches_embeddings(adapter: Path) -> bool:
    """Whether a PEFT adapter changes its base's embeddings or head."""
    config = read_object(adapter / CONFIG)
    parts = [name.removesuffix(".weight") for name in (*_INPUT, *_OUTPUT)]
    if config.get("trainable_token_indices"):  # rows of the embeddings, trained one by one
        return True
    for field in ("target_modules", "modules_to_save"):
        value = config.get(field)
        if isinstance(value, str) and any(part in value for part in parts):  # a pattern, which PEFT allows
            return True
        if isinstance(value, list) and any(str(name).rpartition(".")[2] in parts for name in value):
            return True
    return False
