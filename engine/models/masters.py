"""Float32 masters of the parameters of a model that computes in another dtype.

Casts between dtypes cost more than they look: autocast casts every weight at each forward pass and every activation at
each linear layer. So a model computes in its own dtype throughout, and the optimiser works on float32 copies, whose
small steps bfloat16 would lose. Gradients are summed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Masters:
    """Parameters inside a model, and their masters outside it by the same names."""

    def __init__(self, inside: Mapping[str, torch.Tensor], outside: Mapping[str, torch.Tensor]) -> None:
        self.inside, self.outside = dict(inside), dict(outside)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of one backward pass to the sums, and clear them inside the model."""
        for name, parameter in self.inside.items():
            if parameter.grad is None:
                continue
            master = self.outside[name]
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

    def clear(self) -> None:
        """Forget the sums."""
        for master in self.outside.values():
            master.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for name, parameter in self.inside.items():
            parameter.copy_(self.outside[name])
