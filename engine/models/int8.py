"""Linear layers with int8 weights on a CPU: half the bytes of bfloat16, and sums of whole numbers.

Each output of a layer gets a scale, and its weights become whole numbers from -127 to 127: w = scale * q. What a layer
reads is rounded in the same way, a scale for each token, at every product. The sum of products is then one of whole
numbers, which the processor computes exactly, so a token's result does not depend on the tokens beside it.
Embeddings and the output head stay as they are.

The plain weights get the rounded values, so that a draft made of the target's layers, and the target in float32, in
which the certificate is checked, have the same weights. In float32 the inputs are not rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch

from engine.errors import DraftbenchError
from engine.models.fused_linears import compute_at_once, readers_of_one_input

_MOST = 127  # the largest whole number of either sign
_MIDDLE = 128  # what stands for zero in the inputs, which oneDNN wants unsigned
_TINY = 1e-30


class Int8Weights:
    """The weights of layers that read the same input, as whole numbers in oneDNN's own order."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        rounded = [round_weight(layer.weight) for layer in layers]
        self._scale = torch.cat([scale for _, scale in rounded])
        self._middle = torch.zeros(len(self._scale), dtype=torch.int64)
        whole = torch.cat([numbers for numbers, _ in rounded])
        self._weight = torch.ops.onednn.qlinear_prepack(whole, None)  # opaque
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases).float() if biases else None

    def usable(self, hidden: torch.Tensor) -> bool:
        """Always: there is no other way that gives the same. A gradient cannot pass through the rounding."""
        if torch.is_grad_enabled() and hidden.requires_grad:
            raise RuntimeError("a model with int8 weights has no gradients")
        return True

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., in] -> [..., out of all layers], in the dtype of `hidden`."""
        numbers, scale = round_inputs(hidden)
        sums = _sums(numbers, self._weight, self._scale, self._middle) * scale
        return (sums if self._bias is None else sums + self._bias).to(hidden.dtype)


def round_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[out, in] -> whole numbers: [out, in], int8, and their scale: [out], float32; the same from float32 as from
    bfloat16."""
    values = weight.detach().to(torch.bfloat16).float()
    scale = values.abs().amax(1).clamp_min(_TINY) / _MOST
    return (values / scale.unsqueeze(1)).round().to(torch.int8), scale


def round_inputs(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., in] -> whole numbers, 128 for zero: [..., in], uint8, and their scale: [..., 1], float32."""
    scale = hidden.abs().amax(-1, keepdim=True).float().clamp_min(_TINY) / _MOST
    return (hidden / scale).round_().add_(_MIDDLE).to(torch.uint8), scale


@torch.no_grad()
def quantise(model: Any) -> None:
    """Give the linear layers of a Transformers model int8 weights, in place, all but its output head.

    Raises DraftbenchError where there are none, or the processor does not compute them exactly (`refuse_int8`).
    """
    refuse_int8(torch.device(model.device))
    head = model.get_output_embeddings()
    groups = [group for group in readers_of_one_input(model) if head not in group]
    if not groups:
        raise DraftbenchError(
            f"target.quantize: {type(model).__name__} has no linear layers that can get int8 weights",
            "its family computes with modules of its own",
            "leave target.quantize out",
        )
    for layers in groups:
        if model.dtype != torch.float32:
            compute_at_once(layers, Int8Weights(layers))
        for layer in layers:
            numbers, scale = round_weight(layer.weight)
            layer.weight.copy_(numbers * scale.unsqueeze(1))


def refuse_int8(device: torch.device) -> None:
    """Raise DraftbenchError unless int8 weights can be used on this device."""
    if device.type != "cpu":
        raise DraftbenchError(
            f"target.quantize: int8 is for the CPU, and the device is {device}",
            "its kernels are those of the processor",
            "set target.device: cpu, or leave target.quantize out",
        )
    if not _computes_exactly():
        raise DraftbenchError(
            "target.quantize: int8 cannot be used on this processor",
            "its products of 8-bit numbers overflow or are not there, so that results would be wrong",
            "leave target.quantize out",
        )


@lru_cache(maxsize=1)
def _computes_exactly() -> bool:
    """Whether the processor's sums are right, also the largest: without VNNI pairs of products overflow 16 bits."""
    rows, width, outputs = 3, 96, 20
    inputs = torch.arange(rows * width).remainder(2 * _MOST + 1).add(1).view(rows, width).to(torch.uint8)
    inputs[0] = 2 * _MOST + 1
    weights = torch.arange(outputs * width).mul(7).remainder(2 * _MOST + 1).sub(_MOST).view(outputs, width)
    weights[0], weights[1] = _MOST, -_MOST
    weights = weights.to(torch.int8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weights, None)
        sums = _sums(inputs, packed, torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.equal(sums.double(), (inputs.double() - _MIDDLE) @ weights.double().T)


def _sums(numbers: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """Sums of products times the outputs' scale: [..., out], float32. numbers: [..., in], uint8."""
    settings: tuple[Any, ...] = (
        None,
        1.0,
        0,
        torch.float32,
        "none",
        [],
        "",
    )  # no bias, no scale of the result, no activation
    return cast(
        torch.Tensor, torch.ops.onednn.qlinear_pointwise(numbers, 1.0, _MIDDLE, weight, scale, zeros, *settings)
    )
