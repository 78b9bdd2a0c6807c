"""A draft in training whose layers lie in pieces on several processes: FSDP2, torch's `fully_shard`.

Each process keeps a piece of every layer's weights, gradients and moments; a layer is whole while it computes. What is
not in a layer (embeddings, last norm, head) is whole everywhere, and its gradients are summed as without sharding. The
first process also keeps the whole draft, for evaluations and files; it is renewed when one of them needs it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.distill.processes import Processes
from engine.errors import DraftbenchError
from engine.models.draft import Draft
from engine.models.head import body, text_config


class Shards:
    """A sharded copy of a draft, and the tensors that the optimiser moves, which share its memory.

    `parameters`: by name, float32, this process's pieces and what is whole. `whole`: those that every process has
    whole. Afterwards the layers of `draft` have weights in the first process alone.
    """

    def __init__(self, draft: Draft, dtype: torch.dtype, processes: Processes) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.draft, self.processes = draft, processes
        self.mesh = init_device_mesh(draft.model.device.type, (processes.count,))
        self.model = copy.deepcopy(draft.model)
        _shard(self.model, self.mesh, dtype)
        self.parameters: dict[str, torch.Tensor] = {}
        self._pieces: dict[str, Any] = {}  # DTensors of the model
        for name, parameter in self.model.named_parameters():
            if isinstance(parameter, _dtensor()):
                self._pieces[name] = parameter
            if parameter.requires_grad:
                piece = parameter.detach().to_local() if name in self._pieces else None
                self.parameters[name] = parameter if piece is None else torch.nn.Parameter(piece)
        self.whole = [p for name, p in self.parameters.items() if name not in self._pieces]
        if not processes.first:
            decoder_layers(draft.model).to("meta")

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of one backward pass to those of the optimiser's tensors, and clear them in the model."""
        for name, parameter in self._pieces.items():
            if parameter.grad is not None:
                kept, grad = self.parameters[name], parameter.grad.to_local()
                kept.grad = grad if kept.grad is None else kept.grad.add_(grad)
                parameter.grad = None

    def publish(self) -> None:
        """Nothing: the model computes with the optimiser's tensors."""

    @torch.no_grad()
    def norm(self) -> torch.Tensor:
        """The norm of the whole gradient, a scalar on the device. Called by all processes."""
        whole = {id(parameter) for parameter in self.whole}
        pieces = [p for p in self.parameters.values() if id(p) not in whole]
        own = _sum_of_squares(self.whole, self.mesh.device_type)
        return (own + self.processes.sum(_sum_of_squares(pieces, self.mesh.device_type))).sqrt()

    @torch.no_grad()
    def gather(self) -> None:
        """Renew the draft of the first process. Called by all processes."""
        kept = dict(self.draft.model.named_parameters())
        for name, parameter in self.parameters.items():
            value = self.gathered(name, parameter)
            if self.processes.first:
                kept[name].copy_(value)

    @torch.no_grad()
    def gathered(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of which each process has the piece that belongs to its piece of a parameter. Called by all."""
        like = self._pieces.get(name)
        if like is None or tensor.dim() == 0:
            return tensor.detach()
        spread = _dtensor().from_local(
            tensor.detach(), self.mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
        )
        whole: torch.Tensor = spread.full_tensor()
        return whole

    def kept(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What a checkpoint keeps of it, on the CPU of the first process; nothing in the others. Called by all."""
        whole = self.gathered(name, tensor)
        return whole.cpu() if self.processes.first else torch.empty(0)

    def piece(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """This process's piece of a tensor that belongs to a whole parameter."""
        if name not in self._pieces or tensor.dim() == 0:
            return tensor
        pieces = torch.chunk(tensor, self.processes.count)
        return pieces[self.processes.rank] if self.processes.rank < len(pieces) else tensor[:0]

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the draft's weights from those of a checkpoint."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.piece(name, weights[name]))


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The layers of a model's body. Raises DraftbenchError if they cannot be told."""
    depth = getattr(text_config(model), "num_hidden_layers", None)
    for module in body(model).children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise DraftbenchError(
        f"the layers of {type(model).__name__} cannot be told from its other parts",
        "train.shard: full gives each process a piece of every layer",
        "set train.shard: none",
    )


def _shard(model: Any, mesh: Any, dtype: torch.dtype) -> None:
    """Shard a float32 model's layers. They compute in `dtype`, and gradients are summed in float32."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    half = dtype if dtype != torch.float32 else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    rest = {parameter for parameter in model.parameters() if not isinstance(parameter, _dtensor())}
    # around the layers, so that each is made whole while the one before it computes
    fully_shard(body(model), mesh=mesh, mp_policy=MixedPrecisionPolicy(), ignored_params=rest)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # sums, as the loss is divided by the tokens of the whole step
            module.set_force_sum_reduction_for_comms(True)
    body(model).set_reduce_scatter_unused_params(True)  # experts that only some processes have used


def _sum_of_squares(parameters: Sequence[torch.Tensor], device: str) -> torch.Tensor:
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.stack([torch.zeros((), device=device), *(grad.float().square().sum() for grad in grads)]).sum()


def _dtensor() -> Any:
    from torch.distributed.tensor import DTensor

    return DTensor
