"""Linear layers of a bfloat16 model on a CPU: one product for all that read the same input, from packed weights.

torch keeps a weight as [out, in], and oneDNN copies it into blocks of 16 by 64 before each product. With the few rows
of a decoding step this copy takes longer than the product. Here it is made once, when a model has been loaded, and kept
beside the plain weights, which the rest of the engine goes on reading. Layers that read the same input (q, k and v;
gate and up) share one copy and one product. All results are the same bit for bit: they are compared when a model is
loaded, and where a bit differs the layers stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, cast

import psutil
import torch
import torch.nn.functional as F

# More rows than this are a prefill: there the copy is a small part, and torch is left to choose the kernel.
MOST_ROWS = 64
_COMPARED_ROWS = (1, 2, 3, 4, 5, 8, 17, MOST_ROWS)
_COMPARED_SHAPES = ((1, 1), (2, 3))  # rows and columns of the ids that whole models are compared on
_ATTRIBUTE = "packed_head"  # of the plain weight of an output head; a copy of the weight does not have it

_in_use: ContextVar[bool] = ContextVar("fused_linears_in_use", default=True)


class Product(Protocol):
    """What layers that read the same input compute, all at once."""

    def usable(self, hidden: torch.Tensor) -> bool:
        """Whether it may be used for this input, in this mode of torch; else each layer computes as torch does."""
        ...

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., in] -> [..., out of all layers]"""
        ...


class Packed:
    """The weights of layers that read the same input as one weight in oneDNN's own order."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        weights, biases = [layer.weight.detach() for layer in layers], [layer.bias for layer in layers]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(whole, 1)  # opaque
        self._bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        self._made_from = [(tensor, *_state(tensor)) for tensor in (*weights, *biases) if tensor is not None]

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        """As `Product.product`."""
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, "none", [], ""))

    def usable(self, hidden: torch.Tensor) -> bool:
        """Whether this input is one that products were compared for, and the plain weights have not been changed.

        A gradient needs the plain weights.
        """
        return (
            _in_use.get()
            and not torch.is_grad_enabled()
            and hidden.dtype == torch.bfloat16
            and hidden.numel() <= MOST_ROWS * hidden.shape[-1]
            and hidden.is_contiguous()
            and not hidden.is_inference()  # it has no version
            and all(_state(tensor) == (version, address) for tensor, version, address in self._made_from)
        )


class Siblings:
    """Layers that read the same input. The first that is called computes for all, the others take their part."""

    def __init__(self, layers: Sequence[torch.nn.Linear], all_at_once: Product) -> None:
        self.layers, self._all_at_once = list(layers), all_at_once
        self._sizes = [layer.out_features for layer in layers]
        self._latest: tuple[torch.Tensor, int, tuple[torch.Tensor, ...]] | None = None

    def compute(self, place: int, hidden: torch.Tensor) -> torch.Tensor:
        """The output of the layer in this place of the group: [..., its out]."""
        latest = self._latest
        if latest is not None and latest[0] is hidden and latest[1] == hidden._version:
            parts = latest[2]
        elif self._all_at_once.usable(hidden):
            whole = self._all_at_once.product(hidden)
            if len(self.layers) == 1:
                return whole
            parts = torch.split(whole, self._sizes, -1)
        else:
            return F.linear(hidden, self.layers[place].weight, self.layers[place].bias)
        last = place == len(self.layers) - 1  # called last: nothing is held until the next step
        self._latest = None if last else (hidden, hidden._version, parts)
        return parts[place]


class _Forward:
    """The forward of a fused layer, as an attribute of the layer, whose type, name and tensors stay."""

    def __init__(self, siblings: Siblings, place: int) -> None:
        self._siblings, self._place = siblings, place

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._siblings.compute(self._place, hidden)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The plain forward of the copied layer: its weights may be trained."""
        return partial(torch.nn.Linear.forward, memo[id(self._siblings.layers[self._place])])


def compute_at_once(layers: Sequence[torch.nn.Linear], all_at_once: Product) -> None:
    """Make the layers, in the order in which a forward calls them, compute by one product from now on."""
    siblings = Siblings(layers, all_at_once)
    for place, layer in enumerate(layers):
        vars(layer)["forward"] = _Forward(siblings, place)


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the linear layers of models on this device in this dtype are fused."""
    return device.type == "cpu" and dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def fuse_linears(model: Any) -> None:
    """Fuse the linear layers of a Transformers model in place, as far as this changes no bit of its results.

    Without effect for a dtype or device that is not packed (`packs`), and where memory has no room for the copies. The
    modules keep their type, names and plain weights. A weight that is changed later is noticed, unless it is changed
    through `.data`, and used as it is.
    """
    if not packs(torch.device(model.device), model.dtype) or not _room_for_copies(model):
        return
    head = model.get_output_embeddings()
    groups = [group for group in readers_of_one_input(model) if head not in group and not _is_fused(group)]
    equal: dict[Any, bool] = {}
    plain = _logits(model)
    _fuse(groups, equal)
    if not _gives(model, plain):
        _undo(groups)
        _fuse([[layer] for group in groups for layer in group], equal)
    if type(head) is torch.nn.Linear and not hasattr(head.weight, _ATTRIBUTE) and _same_bits([head]):
        # Once, although it may be tied to the embeddings or shared with a draft.
        setattr(head.weight, _ATTRIBUTE, Packed([head]))


def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear` of an output head, by its packed weight if it has one.

    hidden: [..., in], weight: [out, in], bias: [out] -> [..., out]
    """
    packed: Packed | None = getattr(weight, _ATTRIBUTE, None)
    if packed is None or not packed.usable(hidden):
        return F.linear(hidden, weight, bias)
    return packed.product(hidden)


@contextlib.contextmanager
def as_loaded() -> Iterator[None]:
    """Inside, models compute as torch computes them: to compare a fused model with itself."""
    token = _in_use.set(False)
    try:
        yield
    finally:
        _in_use.reset(token)


@torch.no_grad()
def readers_of_one_input(model: Any) -> list[list[torch.nn.Linear]]:
    """The linear layers that a forward calls once, grouped by what they read, each group in the order of its calls.

    What reads the same is seen in a forward of a few tokens, so that no architecture has to be known.
    """
    calls: list[tuple[torch.nn.Linear, torch.Tensor]] = []
    layers = [module for module in model.modules() if type(module) is torch.nn.Linear]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: calls.append((layer, given[0])) if given else None)
        for layer in layers
    ]
    try:
        model(input_ids=_ids(1, 4, model), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    counts = {id(layer): sum(layer is called for called, _ in calls) for layer in layers}
    groups: dict[Any, list[torch.nn.Linear]] = {}
    for layer, given in calls:
        if counts[id(layer)] == 1 and layer.weight.dtype == model.dtype:
            groups.setdefault((id(given), layer.bias is None), []).append(layer)
    return list(groups.values())


def _fuse(groups: Sequence[Sequence[torch.nn.Linear]], equal: dict[Any, bool]) -> None:
    """Fuse each group whose products are equal; `equal` remembers which shapes are."""
    for layers in groups:
        kind = tuple((layer.weight.shape, layer.bias is None) for layer in layers)
        if kind not in equal:
            equal[kind] = _same_bits(layers)
        if equal[kind]:
            compute_at_once(layers, Packed(layers))
        elif len(layers) > 1:
            _fuse([[layer] for layer in layers], equal)


def _is_fused(layers: Sequence[torch.nn.Linear]) -> bool:
    return any("forward" in vars(layer) for layer in layers)


def _undo(groups: Sequence[Sequence[torch.nn.Linear]]) -> None:
    for layer in (layer for group in groups for layer in group):
        vars(layer).pop("forward", None)


def _same_bits(layers: Sequence[torch.nn.Linear]) -> bool:
    """Whether fused and plain products of these layers are equal in every bit, for few rows and for many."""
    packed, generator = Packed(layers), torch.Generator().manual_seed(0)
    for rows in _COMPARED_ROWS:
        hidden = torch.randn(1, rows, layers[0].in_features, generator=generator).to(layers[0].weight.dtype)
        plain = torch.cat([F.linear(hidden, layer.weight, layer.bias) for layer in layers], dim=-1)
        if not torch.equal(plain, packed.product(hidden)):
            return False
    return True


def _gives(model: Any, expected: Sequence[torch.Tensor]) -> bool:
    """Whether the model's `_logits` are these: what follows a product must not depend on where its result lies."""
    try:
        return all(torch.equal(*pair) for pair in zip(expected, _logits(model), strict=True))
    except RuntimeError:  # a view that a part of a larger result does not allow
        return False


def _logits(model: Any) -> list[torch.Tensor]:
    """Logits of a few inputs of different shapes."""
    return [model(input_ids=_ids(*shape, model), use_cache=False).logits for shape in _COMPARED_SHAPES]


def _ids(rows: int, columns: int, model: Any) -> torch.Tensor:
    return torch.arange(1, 1 + rows * columns).remainder(model.get_input_embeddings().weight.shape[0]).view(rows, -1)


def _room_for_copies(model: Any) -> bool:
    weights = {id(module.weight): module.weight for module in model.modules() if type(module) is torch.nn.Linear}
    return sum(weight.nbytes for weight in weights.values()) < psutil.virtual_memory().available // 2


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    """What changes when a tensor gets other values or another place."""
    return tensor._version, tensor.data_ptr()
