"""A draft's checkpoint made small enough to pass on: its own tensors rounded to bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, read_json, sha256_file, write_json
from engine.models.draft import CARD, WEIGHTS, read_card


def pack_draft(source: Path, place: Path) -> None:
    """Write the draft in `source` to the new folder `place` in bfloat16, the dtype most are served in.

    The card says which weights it was rounded from, so that a run that starts here and one that
    measured the original are known to mean the same draft.
    """
    if read_card(source).info.lora is not None:
        raise DraftbenchError(
            f"the draft in {source} is an adapter",
            "without its shared draft, which is as large as any draft, it is none",
            "pass on `draftbench export RUN --lora apart`, or pack a draft of which all weights were trained",
        )
    place.mkdir(parents=True)
    state = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(source / WEIGHTS).items()
    }
    with disk_errors(place):
        save_file(state, place / WEIGHTS, metadata={"format": "pt"})
        (place / WEIGHTS).chmod(0o644)
    card = read_json(source / CARD)
    card["config"].pop("_name_or_path", None)  # where the target lay on the machine that trained
    original = card.get("rounded_from") or card["weights_sha256"]
    write_json(place / CARD, {**card, "weights_sha256": sha256_file(place / WEIGHTS), "rounded_from": original})
