"""Whether a target and its draft can be decoded, split and cut as a recipe asks: from shapes alone, without weights.

A run asks the same of the models that it has loaded (`runner_for`, `check_head`, `fitting_layers`), so what is refused
here is what would be refused there, and the other way round; a test compares the two. Only what shows when layers
compute, such as a cache that does not really forget, is left to the run, which looks before anything is captured.
"""

from __future__ import annotations

import inspect
from typing import Any

from engine.config.schema import Recipe
from engine.decode.runner import Runner
from engine.errors import DraftbenchError, boundary
from engine.models.draft import Draft, DraftInfo, check_shared, check_trim, read_card
from engine.models.head import body, check_head_outline, text_config
from engine.models.load import LoadedModel
from engine.models.shallow import fitting_layers
from engine.paths import Home
from engine.planning.outlines import FULL_ATTENTION, draft_shapes
from engine.runs.drafts import draft_folder
from engine.runs.plan import decodes


def check_decodable(model: Any) -> None:
    """Raise DraftbenchError if the model's past cannot be kept, and forgotten, by the cache that decoding uses.

    The model may be on the meta device. A run also tries it (`engine.decode.columns`), which takes weights.
    """
    with boundary(f"{type(model).__name__} cannot be decoded", FULL_ATTENTION):
        if "past_key_values" not in _forward_parameters(model):
            raise DraftbenchError(
                f"{type(model).__name__} keeps its past in a way of its own, or stands on an encoder",
                "refused tokens must be taken out of a cache of keys and values again",
                FULL_ATTENTION,
            )
        Runner(model)


def _forward_parameters(model: Any) -> set[str]:
    """Names of what the model's body takes; where it is a shell that hands everything on, of the decoder inside."""
    parameters = inspect.signature(body(model).forward).parameters
    if all(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters.values()):
        parameters = inspect.signature(model.get_decoder().forward).parameters
    return set(parameters)


def check_target(recipe: Recipe, target: Any) -> str:
    """What the target is, in words; raises DraftbenchError as the run would. `target`: on the meta device."""
    check_head_outline(target)
    if decodes(recipe):
        check_decodable(target)
    config = text_config(target)
    return f"{type(target).__name__} of {config.num_hidden_layers} layers and {config.vocab_size:,} ids"


def check_draft(home: Home, recipe: Recipe, target: Any) -> str:
    """What the draft begins as, in words; raises DraftbenchError as the run would. `target`: on the meta device."""
    spec, draft = recipe.draft, draft_shapes(home, recipe, target)
    if spec.checkpoint is not None:
        check_head_outline(draft)
    if decodes(recipe):
        check_decodable(draft)
    own = spec.checkpoint is not None and draft_folder(home, spec.checkpoint)
    if spec.share_embeddings:
        check_shared(draft, target)
    if spec.vocabulary is not None:
        known = read_card(own).info if own else DraftInfo("", spec.share_embeddings, spec.init, [])
        check_trim(Draft(draft, known), LoadedModel(target, None, recipe.target, ""), spec.vocabulary)
    if spec.checkpoint is not None:
        return f"starts from {spec.checkpoint}"
    chosen, total = fitting_layers(target, spec.layers), text_config(target).num_hidden_layers
    listed = ", ".join(str(layer) for layer in chosen[:12]) + (" ..." if len(chosen) > 12 else "")
    return f"{len(chosen)} of the target's {total} layers: {listed}"
