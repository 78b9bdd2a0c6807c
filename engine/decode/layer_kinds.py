"""What the layers of a model attend to, read from its configuration: everything, a window, or a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import get_layer_types_and_kwargs

from engine.errors import DraftbenchError

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
WITHOUT = "dummy"  # layers that keep nothing: they have no attention, or read what another layer kept
_FIX = "use a model that keeps keys and values in every layer, without a recurrent or convolutional state"


@dataclass(frozen=True)
class LayerKind:
    """What a layer attends to: everything before, a window, or a chunk; `width` tokens where it is not everything."""

    name: str
    width: int = 0


def layer_kinds(model: Any) -> list[LayerKind]:
    """The kinds of a model's layers. Raises DraftbenchError for a layer that keeps anything but keys and values."""
    config = model.config.get_text_config(decoder=True)
    names, settings = get_layer_types_and_kwargs(config)
    unfit = sorted(set(names) - {FULL, SLIDING, CHUNKED, WITHOUT})
    if unfit:
        raise DraftbenchError(
            f"{type(model).__name__} keeps its past in layers of {', '.join(unfit)}",
            "refused tokens must be taken out of the cache again, which such a layer cannot do exactly",
            _FIX,
        )
    return [LayerKind(name, own.get("sliding_window") or 0) for name, own in zip(names, settings, strict=True)]


def within_windows(kinds: Sequence[LayerKind], tokens: int) -> bool:
    """Whether a text of so many tokens lies in every layer's window or chunk, so that none hides any of it."""
    return all(kind.width == 0 or tokens <= kind.width for kind in kinds)
