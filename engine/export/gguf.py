"""A draft as a GGUF file with its tokenizer and chat template inside: what llama.cpp and LM Studio load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from engine.catalogue import EXPORTERS
from engine.errors import DraftbenchError, did_you_mean
from engine.export.gguf_file import GgufFile, Precision, export_gguf
from engine.export.gguf_quantise import quantise
from engine.models.draft import Draft
from engine.models.gguf import scale_positions
from engine.models.gguf_header import read_whole
from engine.models.load import LoadedModel
from engine.models.locate import gguf_source

PRECISIONS = EXPORTERS["gguf"].precisions


def write(folder: Path, draft: Draft, target: LoadedModel, *, gamma: int, precision: str = PRECISIONS[0]) -> list[str]:
    """Write the draft into an empty folder, as `draft-PRECISION.gguf`; return what the file could not hold.

    gamma has no place in a GGUF file: it is a flag of the server.
    """
    return list(write_model(folder, "draft", draft.model, target, precision).notes)


def write_model(folder: Path, name: str, model: Any, target: LoadedModel, precision: str) -> GgufFile:
    """Write a model with the target's tokenizer as `NAME-PRECISION.gguf` into the folder.

    Raises DraftbenchError for an unknown precision, or q4_k_m where nothing makes it.
    """
    if precision not in PRECISIONS:
        raise unknown_precision(precision)
    first: Precision = "f16" if precision == "q4_k_m" else cast(Precision, precision)
    file = folder / f"{name}-{precision}.gguf"
    written = export_gguf(
        folder / f"{name}-{first}.gguf",
        model,
        target.tokenizer,
        precision=first,
        name=name,
        tokenizer_source=gguf_source(target.spec),
        stop_ids=target.stop_ids,
    )
    if written.path != file:
        try:
            warned = quantise(written.path, file)
        finally:
            written.path.unlink()
        return replace(written, path=file, notes=(*written.notes, *warned))
    return written


def unknown_precision(name: str) -> DraftbenchError:
    """The error for a precision that --gguf does not know."""
    return DraftbenchError(f"unknown precision {name!r}", "--gguf names one", did_you_mean(name, PRECISIONS))


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

    header = read_whole(file)  # strictly, before a library trusts it
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
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
    model.is_quantized = False  # Transformers says so of every GGUF file; the weights are plain numbers by now
    return model.to(device).eval()
