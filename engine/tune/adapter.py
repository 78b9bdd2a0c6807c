"""A LoRA adapter on the upper layers of a model: made, kept in float32 beside it, written.

The model stays in its own dtype and the adapter computes in it too, because casts between
dtypes cost more than the multiplications of the adapter; the optimiser works on float32
copies, whose small steps bfloat16 would lose.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from engine.models.lora import adapted_layers, write_peft
from engine.models.masters import Masters
from engine.tune.recipe import AdapterSpec


def add_adapter(model: Any, spec: AdapterSpec, *, base_name: str, seed: int) -> Any:
    """`model` with a fresh adapter, the only part of it that is trained.

    `base_name` is written into the adapter's configuration. Raises DraftbenchError if the
    model has no linear layer of one of the names.
    """
    from peft import LoraConfig, get_peft_model

    adapted_layers(model, spec.modules, key="adapter.modules")
    layers = int(model.config.num_hidden_layers)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=sorted(spec.modules),
        layers_to_transform=list(range(max(0, layers - spec.layers), layers)),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks Transformers by a name that is going out of use
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def masters_of(adapted: Any) -> Masters:
    """Float32 copies of an adapter's parameters."""
    inside = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    return Masters(inside, {name: p.detach().float().clone() for name, p in inside.items()})


def write_adapter(folder: Path, adapted: Any) -> None:
    """The adapter as PEFT reads it, in bfloat16; the same weights give the same bytes."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    write_peft(folder, adapted.peft_config["default"].to_dict(), weights)
