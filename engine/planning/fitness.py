"""Check from shapes alone whether a target and its draft can be decoded, split and cut as a recipe asks.

A run asks the same of the models that it has loaded (`runner_for`, `check_head`, `fitting_layers`), so what is refused
here is what would be refused there, and the other way round; a test compares the two. Only what shows when layers
compute, such as a cache that does not really forget, is left to the run, which looks before anything is captured.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config.schema import ModelSpec, Recipe
from engine.decode.layer_kinds import layer_kinds
from engine.errors import DraftbenchError, boundary
from engine.models.draft import Draft, DraftInfo, check_shared, check_trim, read_card
from engine.models.embeddings import stored_ends, touches_embeddings
from engine.models.ends import other_ends
from engine.models.head import body, check_head_outline, text_config
from engine.models.load import LoadedModel
from engine.models.locate import locate_adapter
from engine.models.lora import adapter_size, shared_folder
from engine.models.shallow import fitting_layers
from engine.paths import Home
from engine.planning.outlines import WITH_ATTENTION, at_hand, draft_shapes
from engine.runs.drafts import draft_folder
from engine.runs.plan import decodes


def check_decodable(model: Any) -> None:
    """Raise DraftbenchError if the model's past cannot be kept, and forgotten, by the cache that decoding uses.

    The model may be on the meta device. A run also tries it (`engine.decode.slot_fit`), which takes weights.
    """
    name = type(model).__name__
    with boundary(f"{name} cannot be decoded", WITH_ATTENTION):
        if "past_key_values" not in _parameters(_decoder(model)):
            raise DraftbenchError(
                f"{name} keeps its past in a way of its own, or stands on an encoder",
                "refused tokens must be taken out of a cache of keys and values again",
                WITH_ATTENTION,
            )
        kinds = layer_kinds(model)
        if _decoder(model) is body(model):
            return
        # The decoder of a model that was made with an encoder: its cache is laid out by the settings, which may
        # count the encoder's layers.
        cached = len(kinds)
        layers = 1 + max((getattr(part, "layer_idx", None) or 0 for part in _decoder(model).modules()), default=0)
        if cached and cached < layers:
            raise DraftbenchError(
                f"{name} has {layers} layers, and its settings count {cached}",
                "a cache is made for as many layers as the settings count",
                WITH_ATTENTION,
            )


def _decoder(model: Any) -> Any:
    """The model's body or, where that is a shell that hands every argument on, the decoder inside."""
    own = body(model)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return model.get_decoder() if all(p.kind in variadic for p in _parameters(own).values()) else own


def _parameters(module: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


def _check_mask(model: Any) -> None:
    """Refuse a model that decides by itself which tokens each one sees (CPM-Ant reads a prompt in both directions)."""
    parameters = _parameters(_decoder(model))
    if "past_key_values" in parameters and "attention_mask" not in parameters:
        raise DraftbenchError(
            f"{type(model).__name__} takes no attention mask: it sees the tokens that come after",
            "a target predicts each token from those before it",
            "use a causal language model",
        )


def check_target(recipe: Recipe, target: Any) -> str:
    """Describe the target, on the meta device; raises DraftbenchError as the run would."""
    check_head_outline(target)
    _check_mask(target)
    if decodes(recipe):
        check_decodable(target)
    config = text_config(target)
    return f"{type(target).__name__} of {config.num_hidden_layers} layers and {config.vocab_size:,} ids"


def check_draft(home: Home, recipe: Recipe, target: Any) -> str:
    """Describe the draft that the run begins with; raises DraftbenchError as the run would.

    `target` is on the meta device.
    """
    spec, draft = recipe.draft, draft_shapes(home, recipe, target)
    if spec.checkpoint is not None:
        check_head_outline(draft)
    if decodes(recipe):
        check_decodable(draft)
    own = spec.checkpoint is not None and draft_folder(home, spec.checkpoint)
    if own and (adapter := read_card(own).info.lora):
        shared_folder(own, adapter)  # raises if it is not here
    if spec.share_embeddings and recipe.trains:
        check_shared(draft, target)
        _check_ends(recipe, own or None)
    if spec.vocabulary is not None:
        known = read_card(own).info if own else DraftInfo("", spec.share_embeddings, spec.init, [])
        check_trim(Draft(draft, known), LoadedModel(target, None, recipe.target, ""), spec.vocabulary)
    if not recipe.trains:
        return f"{spec.checkpoint or _start(recipe, target)}, as it is"
    return _start(recipe, target) + _trained(recipe, draft)


def _check_ends(recipe: Recipe, own: Path | None) -> None:
    """Refuse a checkpoint whose embeddings would be replaced, where they can be read without loading either model.

    The run compares them value by value, whatever they are called.
    """
    spec, folder = recipe.draft, at_hand(recipe.target)
    changed = recipe.target.adapter is not None and touches_embeddings(locate_adapter(recipe.target.adapter))
    if spec.checkpoint is None or folder is None or changed:
        return
    card = None if own is None else read_card(own)
    if card is not None and (card.info.share_embeddings or card.info.vocabulary is not None):
        return
    theirs = own or at_hand(ModelSpec(model=spec.checkpoint))
    mine = None if theirs is None else stored_ends(theirs, None if card is None else card.config)
    if mine is not None and mine != (stored_ends(folder) or mine):
        raise other_ends("embeddings", "their hashes do")


def _trained(recipe: Recipe, draft: Any) -> str:
    """What is trained, if that is an adapter; raises DraftbenchError if the draft has no such layers."""
    if recipe.draft.lora is None:
        return ""
    size = adapter_size(draft, recipe.draft.lora)
    return f"; a LoRA adapter of rank {recipe.draft.lora.rank} is trained, {size:,} parameters"


def _start(recipe: Recipe, target: Any) -> str:
    """What the draft's first weights are."""
    spec = recipe.draft
    if spec.checkpoint is not None:
        return f"starts from {spec.checkpoint}"
    layers, total = fitting_layers(target, spec.layers), text_config(target).num_hidden_layers
    listed = ", ".join(str(layer) for layer in layers[:12]) + (" ..." if len(layers) > 12 else "")
    return f"{len(layers)} of the target's {total} layers: {listed}"
