"""Build a model from some of its target's layers, and compare it with the target layer by layer.

A layer depends on its position in ways that each family configures differently. So nothing is assumed: the shallow
model is first built on the meta device, without weights, and each layer must equal the target's, module by module and
setting by setting, before a tensor is copied. Its configuration is written to its file format and read back, so that a
saved one builds the same model again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from engine.errors import DraftbenchError, boundary
from engine.models.head import body, text_config
from engine.models.layers import evenly_spaced, layer_indices, needed_layers, settings_of_layers, with_needed
from engine.models.quantised import is_packed, is_packed_layer, plain_model, plain_value
from engine.models.split import logits_without, whole_tensor

_OTHER_INIT = "use draft.init: checkpoint with a small model of the same family"
_PROBED = 8  # tokens on which a new draft and its target are compared
_EXACT, _ROUNDED = 1e-3, 0.1  # largest difference, as a share of the logits' norm, in float32 and in half precision
_TINY = 1e-30
# Attributes that may differ: what a layer stores for other layers depends on whether these were kept.
_FREE = {"config", "training", "store_full_length_kv", "gradient_checkpointing"}


def depth_of(model: Any) -> int:
    """The number of decoder layers in a model's configuration."""
    depth = getattr(text_config(model), "num_hidden_layers", None)
    if not isinstance(depth, int) or depth < 1:
        raise DraftbenchError(
            f"{type(model).__name__} does not say how many layers it has",
            "a draft cannot be cut out of it",
            _OTHER_INIT,
        )
    return depth


def shallow_config(target: Any, layers: Sequence[int]) -> Any:
    """The target's configuration with only these layers, written to its file format and read back."""
    own = text_config(target)
    count = own.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    settings = settings_of_layers(own.to_dict(), layers, depth_of(target), count)
    settings.pop("quantization_config", None)  # the draft's weights are plain
    config = type(own).from_dict(settings)
    config._attn_implementation = own._attn_implementation
    config._name_or_path = own._name_or_path
    config.dtype = torch.float32
    return config


def shallow_model(target: Any, layers: Sequence[int]) -> Any:
    """Create a float32 model of the target's kind with only these layers and new weights, on torch's current device.

    For a multimodal model it is the text model.
    """
    with boundary(
        f"{type(target).__name__} cannot be built with layers {list(layers)} alone",
        _OTHER_INIT,
        "its library refuses them",
    ):
        config = shallow_config(target, layers)
        if text_config(target) is target.config:
            return type(target)(config)
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def fitting_layers(target: Any, wanted: int | list[int]) -> list[int]:
    """Return the layers of a draft. Raises DraftbenchError, with layers that work, if it cannot have these.

    `target` may be on the meta device; of a quantised one the layers are compared as plain ones.
    """
    if is_packed(target):
        with torch.device("meta"):
            target = plain_model(target)
    depth = depth_of(target)
    layers = layer_indices(wanted, depth)
    why = unfit(target, layers)
    if not why:
        return layers
    other = _another_choice(target, len(layers), depth)
    raise DraftbenchError(
        f"a draft cannot be made of layers {layers} of {type(target).__name__}",
        why,
        f"for example draft.layers: {other}" if other else _OTHER_INIT,
    )


def unfit(target: Any, layers: Sequence[int]) -> str:
    """Why a model of these layers would differ from the target's layers; '' if it would not."""
    for layer, source in needed_layers(text_config(target)).items():
        if layer in layers and source not in layers:
            return f"layer {layer} reuses what layer {source} computes, which is left out"
    try:
        with torch.device("meta"):
            draft = shallow_model(target, layers)
    except DraftbenchError as error:
        return error.why
    return _difference(target, draft, layers)


def _another_choice(target: Any, count: int, depth: int) -> list[int] | None:
    """The first of a few selections of about as many layers that works."""
    needs = needed_layers(text_config(target))
    tried: list[list[int]] = []
    for size in range(count, min(count + 3, depth - 1) + 1):
        spaced, front = evenly_spaced(size, depth), list(range(size))
        ends = sorted({*range(size - 1), depth - 1})
        tried += [with_needed(spaced, needs), with_needed(ends, needs), with_needed([depth - 1], needs), front]
    return next((layers for layers in tried if not unfit(target, layers)), None)


def layer_lists(target: Any, draft: Any, layers: Sequence[int]) -> list[str]:
    """The draft's names of the lists with one module per layer in both models, such as ['model.layers'].

    A list that is as long as the target is deep only by chance does not become shorter in the draft.
    """
    depth, theirs = depth_of(target), _text_part(target, draft)
    names: list[str] = []
    for name, module in draft.named_modules():
        other = theirs.get(name)
        if not isinstance(module, torch.nn.ModuleList) or not isinstance(other, torch.nn.ModuleList):
            continue
        inside = any(name.startswith(f"{outer}.") for outer in names)
        if not inside and (len(module), len(other)) == (len(layers), depth):
            names.append(name)
    return names


def _text_part(target: Any, draft: Any) -> dict[str, Any]:
    """The target's modules by the draft's names: for a multimodal model, those of its decoder and its head."""
    if text_config(target) is target.config:
        return dict(target.named_modules())
    prefix = next(name for name, module in draft.named_modules() if module is body(draft))
    inner = {f"{prefix}.{name}" if name else prefix: module for name, module in target.get_decoder().named_modules()}
    head = next(name for name, module in draft.named_modules() if module is draft.get_output_embeddings())
    return {**inner, head: target.get_output_embeddings()}


def _difference(target: Any, draft: Any, layers: Sequence[int]) -> str:
    """The first difference between a layer of the draft and the target's; '' if there is none."""
    lists = layer_lists(target, draft, layers)
    if not lists:
        return f"{type(target).__name__} has no list of its {depth_of(target)} layers"
    theirs, mine = _text_part(target, draft), dict(draft.named_modules())
    for place in lists:
        for new, old in enumerate(layers):
            difference = _unlike(theirs[f"{place}.{old}"], mine[f"{place}.{new}"], new, layers)
            if difference:
                return f"layer {old} of the target would be another one as layer {new} of the draft: {difference}"
    return ""


def _unlike(theirs: Any, mine: Any, new: int, layers: Sequence[int]) -> str:
    """How a layer of the draft differs from its original in modules, shapes and settings; '' if it does not."""
    their_parts, my_parts = dict(theirs.named_modules()), dict(mine.named_modules())
    for name in sorted(their_parts.keys() | my_parts.keys()):
        a, b = their_parts.get(name), my_parts.get(name)
        if type(a) is not type(b):
            return f"{name or 'it'} is {_named(a)} there and {_named(b)} here"
    for name, part in their_parts.items():
        settings = _settings(part)
        for key, value in _settings(my_parts[name]).items():
            if key in settings and not _same(settings[key], value, new, layers):
                return f"{f'{name}.' if name else ''}{key} is {settings[key]!r} there and {value!r} here"
    shapes = {name: tuple(tensor.shape) for name, tensor in mine.state_dict().items()}
    for name, tensor in theirs.state_dict().items():
        if shapes.get(name) != tuple(tensor.shape):
            return f"{name} is {tuple(tensor.shape)} there and {shapes.get(name, 'missing')} here"
    return ""


def _same(theirs: Any, mine: Any, new: int, layers: Sequence[int]) -> bool:
    """Whether a setting is the same for a layer: it may be the layer's index, or a list of all layers' values."""
    if isinstance(theirs, float) and isinstance(mine, float):
        return math.isclose(theirs, mine, rel_tol=1e-9)
    listed = isinstance(theirs, list) and isinstance(mine, list) and len(theirs) > layers[-1]
    if theirs == mine or (theirs, mine) == (layers[new], new):
        return True
    return listed and [theirs[old] for old in layers] == mine


def _named(module: Any) -> str:
    return "missing" if module is None else type(module).__name__


def _settings(module: Any) -> dict[str, Any]:
    """The plain values among a module's attributes."""
    plain = (bool, int, float, str, type(None), torch.Size, tuple, list)
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _FREE and isinstance(value, plain)
    }


def copy_layers(target: Any, draft: Any, layers: Sequence[int]) -> None:
    """Copy the target's weights of these layers, and of everything outside of its layers, in the draft's dtype.

    Tensors with a part for each layer (the per-layer embeddings of Gemma 3n and 4) are cut to the kept parts. Raises
    DraftbenchError if a tensor of either model has no counterpart.
    """
    lists, depth = layer_lists(target, draft, layers), depth_of(target)
    theirs = _state_by_draft_names(target, draft)
    taken: dict[str, torch.Tensor] = {}
    for name, tensor in draft.state_dict().items():
        source = _source_name(name, lists, layers)
        if source not in theirs:
            raise _no_counterpart(target, f"the target has no {source}")
        taken[name] = _fit(source, theirs.pop(source)(), tensor.shape, layers, depth).to(tensor.device, tensor.dtype)
    dropped = tuple(f"{place}.{i}." for place in lists for i in range(depth) if i not in layers)
    over = [name for name in theirs if not name.startswith(dropped)] if dropped else list(theirs)
    if over:
        raise _no_counterpart(target, f"the draft has no {over[0]}")
    draft.load_state_dict(taken)


def _state_by_draft_names(target: Any, draft: Any) -> dict[str, Callable[[], torch.Tensor]]:
    """What reads each saved tensor of the target, by the draft's name for it: only the kept layers are read.

    A quantised layer gives the plain weight that it multiplies by, and one that was left on disk is read from there.
    """
    state: dict[str, Callable[[], torch.Tensor]] = {}
    places = _places(target)
    for name, module in _text_part(target, draft).items():
        if is_packed(target) and is_packed_layer(module):
            keys = ["weight"] + (["bias"] if getattr(module, "bias", None) is not None else [])
            state |= {f"{name}.{key}": partial(plain_value, module, key, target.dtype) for key in keys}
            continue
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for key in own:
            if key not in module._non_persistent_buffers_set:
                state[f"{name}.{key}" if name else key] = partial(whole_tensor, target, places[id(module)], key)
    return state


def _source_name(name: str, lists: Sequence[str], layers: Sequence[int]) -> str:
    """The target's name of a tensor of the draft, with the original index of its layer."""
    for place in lists:
        if name.startswith(f"{place}."):
            index, _, rest = name.removeprefix(f"{place}.").partition(".")
            return f"{place}.{layers[int(index)]}.{rest}"
    return name


def _fit(name: str, tensor: torch.Tensor, shape: torch.Size, layers: Sequence[int], depth: int) -> torch.Tensor:
    """The tensor; if it has a part for each layer along one of its dimensions, the parts of these layers."""
    if tensor.shape == shape:
        return tensor
    unlike = [d for d in range(len(shape)) if len(shape) == tensor.dim() and tensor.shape[d] != shape[d]]
    if "per_layer" in name and len(unlike) == 1 and tensor.shape[unlike[0]] * len(layers) == shape[unlike[0]] * depth:
        at = unlike[0]
        apart = (*tensor.shape[:at], depth, -1, *tensor.shape[at + 1 :])
        return tensor.reshape(apart).index_select(at, torch.tensor(list(layers), device=tensor.device)).reshape(shape)
    raise DraftbenchError(
        f"{name} is {tuple(tensor.shape)} in the target and {tuple(shape)} in a draft of {len(layers)} layers",
        "it is not known which part belongs to which layer",
        _OTHER_INIT,
    )


def _no_counterpart(target: Any, reason: str) -> DraftbenchError:
    return DraftbenchError(f"a draft cannot be cut out of {type(target).__name__}", reason, _OTHER_INIT)


def left_out(target: Any, draft: Any, layers: Sequence[int]) -> list[str]:
    """The target's names of its other layers: without them it must compute what a draft of `layers` does."""
    theirs, places = _text_part(target, draft), _places(target)
    return [
        places[id(layer)]
        for name in layer_lists(target, draft, layers)
        for index, layer in enumerate(theirs[name])
        if index not in layers
    ]


def _places(model: Any) -> dict[int, str]:
    """The name of each of a model's modules, by identity."""
    return {id(module): name for name, module in model.named_modules()}


@torch.no_grad()
def check_copied(target: Any, draft: Any, layers: Sequence[int]) -> None:
    """Raise DraftbenchError unless a new draft of `layers` computes what they compute in the target.

    This refuses families whose layers depend on each other in a way that no setting shows.
    """
    name = type(target).__name__
    with boundary(f"a draft of {name} cannot be compared with it", _OTHER_INIT):
        ids = torch.arange(1, _PROBED + 1, device=target.get_input_embeddings().weight.device).unsqueeze(0)
        mine = draft(input_ids=ids.to(draft.device), use_cache=False).logits.float().to(ids.device)
        theirs = logits_without(target, left_out(target, draft, layers), ids).float()
    # the median over positions: in half precision a single token may be routed to another expert
    gap = float((mine - theirs).norm(dim=-1).median() / theirs.norm(dim=-1).mean().clamp_min(_TINY))
    allowed = _EXACT if target.dtype == torch.float32 and not is_packed(target) else _ROUNDED
    if not gap <= allowed:
        raise DraftbenchError(
            f"a draft of layers {list(layers)} of {name} does not compute what they compute in the target",
            f"its logits differ by {gap:.0%} from those of the target without its other layers: the layers depend on "
            "each other",
            _OTHER_INIT,
        )
