"""Linear layers with int8 weights on a CPU: half the bytes of bfloat16 for a token that is decoded alone.

Each output of a layer gets a scale, and its weights become whole numbers from -127 to 127: w = scale * q. What a layer
reads is not rounded. The plain weights get the rounded values too, so that everything else in the engine (other numbers
of tokens, a draft made of the target's layers, the target in float32 for its certificate) is of the same model.
Embeddings and the output head stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from engine.errors import DraftbenchError
from engine.models.fused_linears import Packed, compute_at_once, packs, readers_of_one_input

_MOST = 127  # the largest whole number of either sign
_TINY = 1e-30
_CLOSE = 2e-2  # of the largest value: products of bfloat16, which keeps eight bits


Rounded = tuple[torch.Tensor, torch.Tensor]  # whole numbers [out, in], int8, and their scale [out], float32


class Int8Weights:
    """The weights of layers that read the same input, as whole numbers for one token and in bfloat16 for several."""

    def __init__(self, layers: Sequence[torch.nn.Linear], rounded: Sequence[Rounded]) -> None:
        self._numbers = torch.cat([numbers for numbers, _ in rounded])
        self._scale = torch.cat([scale for _, scale in rounded]).to(torch.bfloat16)  # it loses nothing
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._packed = Packed(layers)

    def usable(self, hidden: torch.Tensor) -> bool:
        """As `Packed.usable`: otherwise the plain weights compute, which have the rounded values."""
        return self._packed.usable(hidden)

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., in] -> [..., out of all layers], bfloat16."""
        if hidden.numel() > hidden.shape[-1]:
            return self._packed.product(hidden)
        sums = torch._weight_int8pack_mm(hidden.view(1, -1), self._numbers, self._scale)
        return (sums if self._bias is None else sums + self._bias).view(*hidden.shape[:-1], -1)


def round_weight(weight: torch.Tensor) -> Rounded:
    """The nearest whole numbers of a weight [out, in]; the same from float32 as from bfloat16.

    The scale has no more digits than bfloat16.
    """
    values = weight.detach().to(torch.bfloat16).float()
    scale = (values.abs().amax(1).clamp_min(_TINY) / _MOST).to(torch.bfloat16).float()
    return (values / scale.unsqueeze(1)).round().clamp(-_MOST, _MOST).to(torch.int8), scale


@torch.no_grad()
def quantise(model: Any) -> None:
    """Give the linear layers of a Transformers model int8 weights, in place, all but its output head.

    Raises DraftbenchError where there are none, or the device is no CPU (`refuse_int8`).
    """
    device = torch.device(model.device)
    refuse_int8(device)
    head = model.get_output_embeddings()
    groups = [group for group in readers_of_one_input(model) if head not in group]
    if not groups:
        raise DraftbenchError(
            f"target.quantize: {type(model).__name__} has no linear layers that can get int8 weights",
            "its family computes with modules of its own",
            "leave target.quantize out",
        )
    right: dict[Any, bool] = {}
    for layers in groups:
        rounded = [round_weight(layer.weight) for layer in layers]
        for layer, (numbers, scale) in zip(layers, rounded, strict=True):
            layer.weight.copy_(numbers * scale.unsqueeze(1))
        if packs(device, model.dtype):
            products, kind = Int8Weights(layers, rounded), tuple(layer.weight.shape for layer in layers)
            if kind not in right:
                right[kind] = _is_right(products, layers)
            if right[kind]:
                compute_at_once(layers, products)


def _is_right(products: Int8Weights, layers: Sequence[torch.nn.Linear]) -> bool:
    """Whether this processor's kernel for one token gives what the plain weights give, but for the last digits."""
    hidden = torch.randn(1, 1, layers[0].in_features, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    plain = torch.cat([F.linear(hidden, layer.weight, layer.bias) for layer in layers], dim=-1).float()
    return bool((products.product(hidden).float() - plain).abs().max() <= _CLOSE * plain.abs().max())


def refuse_int8(device: torch.device) -> None:
    """Raise DraftbenchError unless int8 weights can be used on this device."""
    if device.type != "cpu":
        raise DraftbenchError(
            f"target.quantize: int8 is for the CPU, and the device is {device}",
            "its kernels are those of the processor",
            "set target.device: cpu, or leave target.quantize out",
        )
