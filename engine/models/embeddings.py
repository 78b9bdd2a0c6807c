"""Hash the embeddings and the output head of a model: the part that drafts share with their target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

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
    tied = read_object(folder / "config.json").get("tie_word_embeddings", False)
    kinds = (_INPUT,) if tied else (_INPUT, _OUTPUT)
    weights: dict[tuple[str, ...], torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                for kind in kinds:
                    if name.endswith(kind):
                        weights[kind] = tensors.get_tensor(name)
    return embeddings_hash([weights[kind] for kind in kinds if kind in weights]) if _INPUT in weights else None


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
