"""Models that are on this machine, looked at without their weights: shapes on the meta device. Nothing is fetched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from engine.config.schema import ModelSpec, Recipe
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_json
from engine.models.assets import asset_path
from engine.models.draft import Card, cut_head, model_of_config, read_card
from engine.models.folder import check_settings, outline
from engine.models.load import LoadedModel, load_tokenizer, model_fingerprint, resolve_device, resolve_dtype
from engine.models.locate import locate_model
from engine.models.placement import Sizes, sizes_of
from engine.models.quantised import is_unpacked, method_of
from engine.models.shallow import fitting_layers, shallow_model
from engine.paths import Home
from engine.runs.drafts import draft_folder

WITH_ATTENTION = "use a causal language model with attention in every layer"


def at_hand(spec: ModelSpec) -> Path | None:
    """Return the folder of a model that is on this machine already, else None. Nothing is fetched."""
    if spec.model.startswith("asset:"):
        return locate_model(spec) if asset_path(spec.model.removeprefix("asset:")).exists() else None
    if spec.model.startswith("hub:"):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(spec.model.removeprefix("hub:"), "config.json", revision=spec.revision)
        return Path(path).parent if isinstance(path, (str, os.PathLike)) else None
    return locate_model(spec)


def target_outline(spec: ModelSpec) -> LoadedModel | None:
    """Return the target without its weights, which is enough to plan captures; None if it must be fetched first."""
    folder = at_hand(spec)
    if folder is None:
        return None
    # the pages' process does not run code that ships with a model: its architecture is then not known here
    model = outline(folder, resolve_dtype(spec.dtype, resolve_device(spec.device)))
    return LoadedModel(
        model, load_tokenizer(spec.model_copy(update={"trust_remote_code": False})), spec, model_fingerprint(spec)
    )


def needs_own_code(spec: ModelSpec) -> bool:
    """Return whether a model at hand is built by Python code in its folder rather than by Transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = _settings(spec, "config.json")
    return bool(settings.get("auto_map")) and (
        spec.trust_remote_code or settings.get("model_type") not in CONFIG_MAPPING
    )


def tokenizer_needs_own_code(spec: ModelSpec) -> bool:
    """Return whether its tokenizer is such code, and may be run."""
    return spec.trust_remote_code and bool(_settings(spec, "tokenizer_config.json").get("auto_map"))


def _settings(spec: ModelSpec, name: str) -> dict[str, Any]:
    folder = at_hand(spec)
    path = None if folder is None else folder / name
    settings = read_json(path) if path is not None and path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def own_code_is_needed(name: str) -> DraftbenchError:
    """The refusal of a model whose code is not trusted."""
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


def target_sizes(spec: ModelSpec, shapes: Any) -> Sizes:
    """Bytes of the weights of a target at hand in memory, by layer; `shapes` is its outline."""
    folder = at_hand(spec)
    assert folder is not None
    device = resolve_device(spec.device)
    method = method_of(check_settings(folder))
    packed = method is not None and not is_unpacked(method, device)
    return sizes_of(shapes, folder, resolve_dtype(spec.dtype, device), packed=packed)


def _shapes(folder: Path, name: str, dtype: torch.dtype) -> Any:
    with boundary(f"{name} is not a causal language model that Transformers can build", WITH_ATTENTION):
        return outline(folder, dtype)


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
    own = at_hand(other)
    if own is None:
        return None
    if needs_own_code(other):
        raise DraftbenchError(
            f"{spec.checkpoint} needs Python code that ships with it",
            "target.trust_remote_code is about the target alone: a draft is built by Transformers' own code",
            "use a draft of an architecture that Transformers has",
        )
    return _shapes(own, spec.checkpoint, torch.float32)


def _of_card(card: Card, name: str, target: Any) -> Any:
    """The outline of a draft of this project, its head as short as its vocabulary."""
    with boundary(f"the draft {name} cannot be built", "train or copy it again"), torch.device("meta"):
        draft = model_of_config(card.config, target, torch.float32)
        if card.info.vocabulary is not None:
            cut_head(draft, torch.zeros(card.info.vocabulary, dtype=torch.long))
        return draft
