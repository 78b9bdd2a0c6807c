"""What identifies the embeddings and the output head of a model: the part that drafts share with their target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from engine.fileio import read_json
from engine.models.adapter import CONFIG

_INPUT = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_OUTPUT = ("lm_head.weight", "embed_out.weight")


def embeddings_hash(weights: Iterable[torch.Tensor]) -> str:
    """Hex sha256 of the input embeddings, and of the head where it is another tensor.

    Of the bfloat16 values, so that a target has the same in every dtype it is loaded in; a
    fine-tuned target whose embeddings were left alone has that of its base.
    """
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def stored_embeddings_hash(folder: Path) -> str | None:
    """The same of a model on disk, read without loading the rest; None if its tensors go by other names."""
    tied = read_json(folder / "config.json").get("tie_word_embeddings", False)
    kinds = (_INPUT,) if tied else (_INPUT, _OUTPUT)
    found: dict[tuple[str, ...], torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                for kind in kinds:
                    if name.endswith(kind):
                        found[kind] = tensors.get_tensor(name)
    return embeddings_hash([found[kind] for kind in kinds if kind in found]) if _INPUT in found else None


def touches_embeddings(adapter: Path) -> bool:
    """Whether a PEFT adapter changes its base's embeddings or head."""
    config = read_json(adapter / CONFIG)
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
