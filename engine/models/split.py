"""A target split over the processes of a team, by the plan that Transformers has for its family.

Embeddings and output head stay whole in every process: ids are read and logits computed from plain tensors, as in a
model that lies whole. Each layer's sums over the processes are in another order than one process makes them, so
answers agree up to rounding, like those of another batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.models.head import text_config
from engine.models.placement import in_memory
from engine.models.team import mirrored

_WHOLE = "replicate"  # Transformers' name of the style


def check_split(shapes: Any, spec: ModelSpec, device: torch.device) -> None:
    """Raise DraftbenchError unless a model can be split; `shapes` is the model on the meta device."""
    count, config, name = spec.tensor_parallel, text_config(shapes), type(shapes).__name__
    if device.type not in ("cpu", "cuda") or device.index or (device.type == "cpu") == torch.cuda.is_available():
        raise DraftbenchError(
            f"target.tensor_parallel: {count} processes cannot begin on {device}",
            "they use the first cards that are visible, or the processor where there are none",
            "leave target.device: auto, and choose cards by CUDA_VISIBLE_DEVICES",
        )
    if not shapes.tp_plan:
        raise DraftbenchError(
            f"target.tensor_parallel: Transformers has no plan to split {name}",
            "a plan says which part of each layer a process holds",
            "use target.device_map: auto, which spreads whole layers",
        )
    for what in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, what, None)
        if isinstance(heads, int) and heads % count:
            fitting = [n for n in range(2, heads + 1) if heads % n == 0]
            raise DraftbenchError(
                f"target.tensor_parallel: {heads} {what.removeprefix('num_').replace('_', ' ')} of {name} cannot be "
                f"shared by {count} processes",
                "each process has whole heads",
                f"set it to one of {', '.join(map(str, fitting)) or '1'}, or use target.device_map: auto",
            )


def splitting(shapes: Any, count: int) -> dict[str, Any]:
    """Arguments with which Transformers loads this process's part of a model."""
    from transformers.distributed import DistributedConfig

    ends = [shapes.get_input_embeddings(), shapes.get_output_embeddings()]
    plan = {name: _WHOLE for name, module in shapes.named_modules() if any(module is end for end in ends)}
    return {"distributed_config": DistributedConfig(tp_size=count, tp_plan=plan)}


@mirrored
def whole_tensor(model: Any, place: str, key: str) -> torch.Tensor:
    """A tensor of one of a model's modules, put together from the parts of all processes if it is split."""
    tensor = in_memory(model.get_submodule(place), key)
    full = getattr(tensor, "full_tensor", None)
    whole: torch.Tensor = tensor if full is None else full()
    return whole


@mirrored
@torch.no_grad()
def logits_without(model: Any, left_out: Sequence[str], ids: torch.Tensor) -> torch.Tensor:
    """Logits [1, token, vocab] of a model in which some modules return their input. ids: [1, token]."""
    handles = [model.get_submodule(name).register_forward_hook(_pass_on, with_kwargs=True) for name in left_out]
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits


def _pass_on(module: Any, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
    entered = args[0] if args else given["hidden_states"]
    return type(output)((entered, *output[1:])) if isinstance(output, (tuple, list)) else entered
