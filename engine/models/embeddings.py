"""What identifies the embeddings and the output head of a model: the part that drafts share with their target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

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
    found: dict[tuple[str, ...], torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                for kind in (_INPUT, _OUTPUT):
                    if name.endswith(kind):
                        found[kind] = tensors.get_tensor(name)
    return embeddings_hash([found[kind] for kind in (_INPUT, _OUTPUT) if kind in found]) if _INPUT in found else None
