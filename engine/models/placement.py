"""Where the layers of a model lie that is larger than one card: over all cards, then main memory, then its own files.

Embeddings, last norm and output head always lie on the *main* device, which reads ids and returns hidden states: what
stands between a model and the rest of the engine is then on one device, as it is for a model that lies whole. Whole
layers go to the other devices in their order, and accelerate moves what passes between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.models.folder import stored_tensors
from engine.models.head import text_config

DISK = "disk"  # the model's own safetensors, of which a layer is read each time that it computes
_CPU = "cpu"
CARD_SHARE = 0.85  # of a card's free memory that weights may take; the rest is for keys, values and logits
_MAIN_MEMORY_SHARE = 0.7
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_FEWER_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}

DeviceMap = dict[str, int | str]
"""Module -> number of a card, 'cpu' or 'disk', as Transformers takes it."""


@dataclass(frozen=True)
class Room:
    """Bytes for weights on a device: 'cpu' or torch's name of a card."""

    device: str
    bytes: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model's weights: of each of its layers, and of all that is not part of one."""

    layers: tuple[int, ...]
    ends: int

    @property
    def total(self) -> int:
        return sum(self.layers) + self.ends


def fill(sizes: Sizes, rooms: Sequence[Room]) -> list[str]:
    """The device of each layer: the rooms in their order, then the model's files; the ends are in the first room.

    Cards that hold all of it together are filled evenly, since each also keeps the keys and values of its layers.
    Raises DraftbenchError if the ends do not fit into the first room.
    """
    main = rooms[0]
    if sizes.ends > main.bytes:
        raise DraftbenchError(
            f"{main.device} has room for {main.bytes / 1e9:.2f} GB of weights, "
            f"and embeddings and output head alone take {sizes.ends / 1e9:.2f} GB",
            "they lie together on the first device, which reads ids and computes logits",
            "free memory there, or raise its part of target.max_memory_gb",
        )
    left = [main.bytes - sizes.ends, *(room.bytes for room in rooms[1:])]
    cards = [i for i, room in enumerate(rooms) if room.device != _CPU]
    if sum(left[i] for i in cards) >= sum(sizes.layers) and len(cards) > 1:
        even = math.ceil(sizes.total / len(cards)) + max(sizes.layers, default=0)
        evenly = [min(free, even - (sizes.ends if i == 0 else 0)) for i, free in enumerate(left)]
        placed = _in_order(sizes.layers, evenly, rooms)
        if DISK not in placed and _CPU not in placed:
            return placed
    return _in_order(sizes.layers, left, rooms)


def _in_order(layers: Sequence[int], free: Sequence[int], rooms: Sequence[Room]) -> list[str]:
    placed, at, left = [], 0, list(free)
    for size in layers:
        while at < len(rooms) and left[at] < size:
            at += 1
        if at < len(rooms):
            left[at] -= size
        placed.append(rooms[at].device if at < len(rooms) else DISK)
    return placed


def rooms_for(spec: ModelSpec, main: torch.device) -> list[Room]:
    """The rooms of a target that is spread, the main device first; by `target.max_memory_gb` where it is set."""
    free = {_CPU: int(psutil.virtual_memory().available * _MAIN_MEMORY_SHARE)}
    if main.type == "cuda":
        first = main.index or 0
        others = [i for i in range(torch.cuda.device_count()) if i != first]
        free = {f"cuda:{i}": int(torch.cuda.mem_get_info(i)[0] * CARD_SHARE) for i in (first, *others)} | free
    elif main.type != _CPU:
        raise DraftbenchError(
            f"target.device_map: a model is spread over CUDA cards and main memory, not over {main}", "", "leave it out"
        )
    if spec.max_memory_gb is None:
        return [Room(device, size) for device, size in free.items()]
    wanted = {f"cuda:{name}" if name.isdecimal() else name: size for name, size in spec.max_memory_gb.items()}
    if absent := wanted.keys() - free.keys():
        raise DraftbenchError(
            f"target.max_memory_gb names {', '.join(sorted(absent))}, which is not here",
            f"the devices are {', '.join(free)}",
            "name those that are here; cards are numbered as CUDA_VISIBLE_DEVICES lists them",
        )
    first_device = next(iter(free))
    if first_device not in wanted:
        raise DraftbenchError(
            f"target.max_memory_gb gives {first_device} nothing",
            "embeddings and output head lie there: it is target.device",
            f"name it too, or set target.device to one of {', '.join(wanted)}",
        )
    return [Room(device, int(wanted[device] * 1e9)) for device in free if device in wanted]


def device_map(shapes: Any, sizes: Sizes, rooms: Sequence[Room]) -> DeviceMap:
    """Where each module of a model lies; `shapes` is the model on the meta device."""
    placed = fill(sizes, rooms)
    main = _as_transformers(rooms[0].device)
    name = layer_list(shapes)
    layers: DeviceMap = {f"{name}.{i}": _as_transformers(device) for i, device in enumerate(placed)}
    return {**dict(_outside(shapes, "", name, main)), **layers}


def layer_list(model: Any) -> str:
    """Name of the list with one module for each layer of the part that writes text; raises if it is not one."""
    depth = getattr(text_config(model), "num_hidden_layers", None)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth
    ]
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if len(outer) != 1:
        raise DraftbenchError(
            f"target.device_map: {type(model).__name__} has {len(outer)} lists of its {depth} layers",
            "a model is spread layer by layer",
            "leave target.device_map out",
        )
    return str(outer[0])


def _layers(model: Any) -> Sequence[Any]:
    """A model's layers; none if they are not in one list, so that it can only lie whole."""
    try:
        layers: Sequence[Any] = model.get_submodule(layer_list(model))
    except DraftbenchError:
        return ()
    return layers


def _outside(module: Any, name: str, layers: str, main: int | str) -> Iterator[tuple[str, int | str]]:
    """Everything that is not a layer, in as few names as possible."""
    for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield f"{name}.{key}" if name else key, main
    for key, child in module.named_children():
        inner = f"{name}.{key}" if name else key
        if layers.startswith(f"{inner}."):
            yield from _outside(child, inner, layers, main)
        elif inner != layers:
            yield inner, main


def _as_transformers(device: str) -> int | str:
    return int(device.removeprefix("cuda:")) if device.startswith("cuda:") else device


def sizes_of(shapes: Any, folder: Path, dtype: torch.dtype, *, packed: bool) -> Sizes:
    """Bytes of a model's weights in memory. `shapes`: the model on the meta device, with plain layers.

    `packed`: its layers stay quantised, so they are as large as in the files; they share what the files hold beside
    the ends by their number of parameters.
    """
    layers = [sum(p.numel() for p in layer.parameters()) for layer in _layers(shapes)]
    ends = sum(p.numel() for p in shapes.parameters()) - sum(layers)
    if not packed:
        return Sizes(tuple(count * dtype.itemsize for count in layers), ends * dtype.itemsize)
    inside = max(0, stored_bytes(folder) - ends * dtype.itemsize)
    return Sizes(tuple(inside * count // max(1, sum(layers)) for count in layers), ends * dtype.itemsize)


def stored_bytes(folder: Path) -> int:
    """Bytes of all tensors in a model's safetensors."""
    return sum(math.prod(shape) * _bits(dtype) for shape, dtype in stored_tensors(folder).values()) // 8


def _bits(dtype: str) -> int:
    return _BITS.get(dtype) or _FEWER_BITS.get(dtype) or 8


def is_spread(model: Any) -> bool:
    """Whether a model's layers lie on several devices, or are read from its files as they compute."""
    return len(set(map(str, getattr(model, "hf_device_map", {}).values()))) > 1


def computing_shares(model: Any) -> dict[torch.device, float]:
    """The share of a model's layers that compute on each device, and so keep their keys and values there."""
    main = torch.device(model.get_input_embeddings().weight.device)
    if not is_spread(model):
        return {main: 1.0 / (getattr(model, "tp_size", None) or 1)}
    where = [str(model.hf_device_map[key]) for key in model.hf_device_map if key.rpartition(".")[2].isdecimal()]
    computes = [torch.device("cuda", int(device)) if device.isdecimal() else main for device in where]
    return {device: computes.count(device) / len(computes) for device in dict.fromkeys([main, *computes])}


def placed_in_words(model: Any) -> str:
    """Where a model's layers lie (`in_words`); empty for one that lies whole."""
    if not is_spread(model):
        return ""
    where = [model.hf_device_map[key] for key in model.hf_device_map if key.rpartition(".")[2].isdecimal()]
    return in_words([f"cuda:{device}" if isinstance(device, int) else str(device) for device in where])


def in_words(placed: Sequence[str]) -> str:
    """Layers by device: '32 layers: 24 on cuda:0, 8 on disk (its own files)'."""
    counts = {device: placed.count(device) for device in dict.fromkeys(placed)}
    parts = [f"{count} on {'disk (its own files)' if device == DISK else device}" for device, count in counts.items()]
    return f"{len(placed)} layers: {', '.join(parts)}"


def in_memory(module: Any, key: str) -> torch.Tensor:
    """A tensor of a module, also where it was left on disk or in main memory until the module computes."""
    tensor: torch.Tensor = getattr(module, key).detach()
    if tensor.device.type != "meta":
        return tensor
    kept: torch.Tensor = module._hf_hook.weights_map[key]
    return kept
