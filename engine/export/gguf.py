"""A draft as a GGUF file with its tokenizer and chat template inside: what llama.cpp and LM Studio load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.errors import DraftbenchError
from engine.export.gguf_file import Precision, export_gguf
from engine.models.draft import Draft
from engine.models.gguf import scale_positions
from engine.models.gguf_header import read_whole
from engine.models.load import LoadedModel
from engine.models.locate import gguf_source


def write(folder: Path, draft: Draft, target: LoadedModel, *, gamma: int, precision: Precision = "f16") -> None:
    """Write the draft into an empty folder, as `draft-PRECISION.gguf`. gamma has no place in the file."""
    export_gguf(
        folder / f"draft-{precision}.gguf",
        draft.model,
        target.tokenizer,
        precision=precision,
        name="draft",
        tokenizer_source=gguf_source(target.spec),
        stop_ids=target.stop_ids,
    )


def load(folder: Path, dtype: torch.dtype, device: torch.device, *, remote_code: bool = False) -> Any:
    """The exported model, read by Transformers; quantised blocks become numbers of `dtype`."""
    return load_gguf(draft_file(folder), dtype, device)


def draft_file(folder: Path) -> Path:
    """The draft's file in an exported folder."""
    files = sorted(folder.glob("draft-*.gguf"))
    if len(files) != 1:
        raise DraftbenchError(
            f"{folder} holds {len(files)} files draft-*.gguf", "an export has exactly one", "export again"
        )
    return files[0]


def load_gguf(file: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A GGUF file as a model of Transformers, which reads neither stretched positions nor a Qwen3's width of a head.

    Both are set here from the file.

    Raises DraftbenchError if Transformers lacks tensors or had to leave some out.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    header = read_whole(file)
    if hasattr(config, "head_dim"):
        config.head_dim = header.values[f"{header.architecture}.attention.key_length"]
    for tensor in header.tensors:
        if tensor.name == "rope_freqs.weight":
            scale_positions(config, tensor)
    model, report = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, config=config, dtype=dtype, output_loading_info=True
    )
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"], *(k[0] for k in report["mismatched_keys"])})
    if wrong:
        raise DraftbenchError(
            f"Transformers reads {file.name} incompletely: {len(wrong)} tensors, such as {wrong[0]}",
            "it would compute something else",
            "export again, and report this if it happens again",
        )
    return model.to(device).eval()
