"""A draft as a Hugging Face folder: config, all weights as safetensors, tokenizer and generation settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.decode import bare
from engine.models.draft import Draft
from engine.models.load import LoadedModel


def write(folder: Path, draft: Draft, target: LoadedModel, *, gamma: int) -> None:
    """Write the draft into an empty folder.

    The generation settings are bare: what ends an answer of the target, and that assisted generation proposes `gamma`
    tokens at a time, as was measured.
    """
    draft.model.generation_config = bare.bare_settings(target.model, target.stop_ids)
    draft.model.generation_config.update(**bare.proposing(gamma))
    draft.model.save_pretrained(folder)
    target.tokenizer.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype, device: torch.device, *, remote_code: bool = False) -> Any:
    """The exported model, loaded by Transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=remote_code).to(device).eval()
