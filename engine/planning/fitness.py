"""Whether a target and its draft can be decoded, split and cut as a recipe asks: from shapes alone, without weights.

A run asks the same of the models that it has loaded (`runner_for`, `check_head`, `fitting_layers`), so what is refused
here is what would be refused there, and the other way round; a test compares the two. Only what shows when layers
compute, such as a cache that does not really forget, is left to the run, which looks before anything is captured.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from engine.config.schema import ModelSpec, Recipe
from engine.decode.runner import Runner
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_json
from engine.models.draft import Card, Draft, DraftInfo, check_shared, check_trim, cut_head, model_of_config, read_card
from engine.models.folder import outline
from engine.models.head import body, check_head_outline, text_config
from engine.models.load import LoadedModel, resolve_device, resolve_dtype
from engine.models.shallow import fitting_layers, shallow_model
from engine.paths import Home
from engine.planning.estimate import at_hand
from engine.runs.drafts import draft_folder
from engine.runs.plan import decodes

_FULL_ATTENTION = "use a causal language model with full attention in every layer"


def needs_own_code(spec: ModelSpec) -> bool:
    """Whether a model at hand is built by Python code in its folder rather than by Transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = _settings(spec, "config.json")
    return bool(settings.get("auto_map")) and (
        spec.trust_remote_code or settings.get("model_type") not in CONFIG_MAPPING
    )


def tokenizer_needs_own_code(spec: ModelSpec) -> bool:
    """Whether its tokenizer is such code, and may be run."""
    return spec.trust_remote_code and bool(_settings(spec, "tokenizer_config.json").get("auto_map"))


def _settings(spec: ModelSpec, name: str) -> dict[str, Any]:
    folder = at_hand(spec)
    path = None if folder is None else folder / name
    found = read_json(path) if path is not None and path.is_file() else {}
    return found if isinstance(found, dict) else {}


def own_code_is_needed(name: str) -> DraftbenchError:
    return DraftbenchError(
        f"{name} needs Python code that ships with it",
        "Transformers has no model of its kind, and code of a stranger runs with your rights",
        "set target.trust_remote_code if you trust its author, else use another model",
    )


def target_shapes(spec: ModelSpec) -> Any:
    """The model of a specification at hand on the meta device; raises DraftbenchError if there can be none."""
    folder = at_hand(spec)
    assert folder is not None
    return _shapes(folder, spec.model, resolve_dtype(spec.dtype, resolve_device(spec.device)))


def _shapes(folder: Path, name: str, dtype: torch.dtype) -> Any:
    with boundary(f"{name} is no causal language model that Transformers can build", _FULL_ATTENTION):
        return outline(folder, dtype)


def check_decodable(model: Any) -> None:
    """Raise DraftbenchError if the model's past cannot be kept, and forgotten, by the cache that decoding uses.

    The model may be on the meta device. A run also tries it (`engine.decode.columns`), which takes weights.
    """
    with boundary(f"{type(model).__name__} cannot be decoded", _FULL_ATTENTION):
        if "past_key_values" not in inspect.signature(body(model).forward).parameters:
            raise DraftbenchError(
                f"{type(model).__name__} keeps its past in a way of its own, or stands on an encoder",
                "refused tokens must be taken out of a cache of keys and values again",
                _FULL_ATTENTION,
            )
        Runner(model)


def check_target(recipe: Recipe, target: Any) -> str:
    """What the target is, in words; raises DraftbenchError as the run would. `target`: on the meta device."""
    check_head_outline(target)
    if decodes(recipe):
        check_decodable(target)
    config = text_config(target)
    return f"{type(target).__name__} of {config.num_hidden_layers} layers and {config.vocab_size:,} ids"


def draft_shapes(home: Home, recipe: Recipe, target: Any) -> Any | None:
    """The draft that a recipe starts from, on the meta device; None if it is not on this machine yet."""
    spec = recipe.draft
    if spec.checkpoint is None:
        layers = fitting_layers(target, spec.layers)
        with torch.device("meta"):
            return shallow_model(target, layers)
    folder = draft_folder(home, spec.checkpoint)
    if folder is not None:
        return _of_card(read_card(folder), spec.checkpoint, target)
    other = ModelSpec(model=spec.checkpoint)
    found = at_hand(other)
    if found is None:
        return None
    if needs_own_code(other):
        raise DraftbenchError(
            f"{spec.checkpoint} needs Python code that ships with it",
            "target.trust_remote_code is about the target alone: a draft is built by Transformers' own code",
            "use a draft of an architecture that Transformers has",
        )
    return _shapes(found, spec.checkpoint, torch.float32)


def _of_card(card: Card, name: str, target: Any) -> Any:
    """The outline of a draft of this project, its head as short as its vocabulary."""
    with boundary(f"the draft {name} cannot be built", "train or copy it again"), torch.device("meta"):
        draft = model_of_config(card.config, target, torch.float32)
        if card.info.vocabulary is not None:
            cut_head(draft, torch.zeros(card.info.vocabulary, dtype=torch.long))
        return draft


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
