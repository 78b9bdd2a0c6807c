"""Initialise, save and load drafts.

A draft made of layers of the target keeps the target's embeddings and head. They are frozen, so a checkpoint holds only
the other tensors, and loading takes the rest from the target.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.config.schema import DraftSpec, ModelSpec
from engine.errors import DraftbenchError, boundary
from engine.fileio import disk_errors, read_object, sha256_file, write_json
from engine.models.fused_linears import fuse_linears
from engine.models.head import DRAFT_IDS, check_head
from engine.models.load import LoadedModel, load_model
from engine.models.shallow import check_copied, copy_layers, fitting_layers, shallow_model
from engine.models.vocabulary import check_vocabulary

WEIGHTS = "draft.safetensors"
CARD = "draft.json"


@dataclass(frozen=True)
class DraftInfo:
    """What a checkpoint needs to be loaded again, or refused for another target."""

    target_fingerprint: str
    share_embeddings: bool
    init: str
    layers: list[int]
    """Indices in the target; empty if the draft is not made of the target's layers."""
    embeddings_hash: str = ""
    """Of the shared embeddings and head; "" in older cards."""
    vocabulary: int | None = None
    """Number of ids that it can propose; None: all of the target's."""


@dataclass(frozen=True)
class Draft:
    """A draft model in memory and its description."""

    model: Any
    info: DraftInfo


def initialise_draft(target: LoadedModel, spec: DraftSpec, *, seed: int, checkpoint: Path | None = None) -> Draft:
    """Create a float32 draft on the target's device, with its trainable parameters marked.

    `checkpoint` is the folder of a draft of this project. If `spec.checkpoint` names another model, that model is
    loaded and its vocabulary compared with the target's.
    """
    if checkpoint is not None:
        loaded = load_draft(checkpoint, target, dtype=torch.float32)
        # a copy, so that training does not change the target's own tensors
        draft = Draft(copy.deepcopy(loaded.model), loaded.info)
    elif spec.init == "checkpoint":
        draft = _from_other_model(target, spec)
    else:
        draft = _from_layers(target, spec, seed)
    info = replace(
        draft.info,
        share_embeddings=spec.share_embeddings,
        target_fingerprint=target.fingerprint,
        embeddings_hash=target.embeddings_hash,
    )
    if spec.share_embeddings:
        copy_shared(draft.model, target.model)
    mark_trainable(draft.model, spec.share_embeddings)
    return Draft(draft.model, info)


def _from_layers(target: LoadedModel, spec: DraftSpec, seed: int) -> Draft:
    """Create a model of the target's kind with fewer layers, copied from the target or random."""
    layers = fitting_layers(target.model, spec.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = shallow_model(target.model, layers).to(target.device).eval()
    copied = spec.init == "layers"
    if copied:
        copy_layers(target.model, model, layers)
        check_copied(target.model, model, layers)
    return Draft(model, DraftInfo(target.fingerprint, spec.share_embeddings, spec.init, layers if copied else []))


def _from_other_model(target: LoadedModel, spec: DraftSpec) -> Draft:
    assert spec.checkpoint is not None
    other = load_model(ModelSpec(model=spec.checkpoint, device=str(target.device)), dtype="float32")
    check_vocabulary(target.tokenizer, other.tokenizer)
    check_head(other.model)
    return Draft(other.model, DraftInfo(target.fingerprint, False, f"checkpoint {spec.checkpoint}", []))


def shared_modules(model: Any) -> list[Any]:
    """The two modules that a draft can share with its target: input embeddings and output head."""
    return [model.get_input_embeddings(), model.get_output_embeddings()]


@torch.no_grad()
def copy_shared(draft_model: Any, target_model: Any) -> None:
    """Set the draft's embeddings and head to the target's values."""
    check_shared(draft_model, target_model)
    for own, source in zip(shared_modules(draft_model), shared_modules(target_model), strict=True):
        rows = slice(None) if own is draft_model.get_input_embeddings() else _head_rows(draft_model)
        own.weight.copy_(source.weight[rows])
        if getattr(own, "bias", None) is not None and getattr(source, "bias", None) is not None:
            own.bias.copy_(source.bias[rows])


def check_shared(draft_model: Any, target_model: Any) -> None:
    """Raise DraftbenchError if the draft cannot use the target's embeddings and head. Both may have no weights."""
    if _tied(draft_model) and not _tied(target_model):
        raise DraftbenchError(
            "the draft ties its embeddings to its head, the target does not",
            "a single tensor cannot hold the values of two",
            "set draft.share_embeddings: false",
        )
    for own, source in zip(shared_modules(draft_model), shared_modules(target_model), strict=True):
        rows = slice(None) if own is draft_model.get_input_embeddings() else _head_rows(draft_model)
        if own.weight.shape != source.weight[rows].shape:
            raise DraftbenchError(
                f"the draft's embeddings are {tuple(own.weight.shape)}, the target's {tuple(source.weight.shape)}",
                "they can be shared only when they have the same shape",
                "set draft.share_embeddings: false",
            )
        has_bias = [getattr(module, "bias", None) is not None for module in (own, source)]
        if has_bias[0] != has_bias[1]:
            raise DraftbenchError(
                f"the head of the {'draft' if has_bias[0] else 'target'} has a bias, the other one has none",
                "they cannot share a head",
                "set draft.share_embeddings: false",
            )


def _head_rows(draft_model: Any) -> Any:
    """The rows of its target's head that a draft has: some ids, or all."""
    ids = getattr(draft_model, DRAFT_IDS, None)
    return slice(None) if ids is None else ids


def trim(draft: Draft, target: LoadedModel, ids: torch.Tensor) -> Draft:
    """Return the draft with a head for only these ids of the target, in their order; its body is the same model.

    ids: [rows], int64, distinct. If the draft shares its target's head the rows are copied from the target, so that a
    trimmed draft can be trimmed differently; otherwise they are the draft's own.
    """
    check_trim(draft, target, len(ids))
    model, shares = draft.model, draft.info.share_embeddings
    source = (target.model if shares else model).get_output_embeddings()
    cut_head(model, ids.to(target.device))
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(source.weight[ids])
        if source.bias is not None:
            model.get_output_embeddings().bias.copy_(source.bias[ids])
    mark_trainable(model, shares)
    return Draft(model, replace(draft.info, vocabulary=len(ids)))


def check_trim(draft: Draft, target: LoadedModel, size: int) -> None:
    """Raise DraftbenchError if the draft cannot be trimmed to `size` of its target's ids."""
    if not draft.info.share_embeddings and getattr(draft.model, DRAFT_IDS, None) is not None:
        raise DraftbenchError(
            f"the draft has {draft.info.vocabulary} ids and a head of its own",
            "rows that were cut off cannot be restored",
            "leave draft.vocabulary out: the draft keeps its ids",
        )
    if not 1 < size < target.vocab_rows:
        raise DraftbenchError(
            f"draft.vocabulary is {size:,}, the target has {target.vocab_rows:,} ids",
            "a trimmed vocabulary is a part of the target's",
            "choose fewer, or leave it out",
        )


def cut_head(model: Any, ids: torch.Tensor) -> None:
    """Give the model an untied head of len(ids) rows, still without values, and store the ids of its rows."""
    old = model.get_output_embeddings()
    new = torch.nn.Linear(
        old.weight.shape[1], len(ids), bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
    )
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(new)
    model.register_buffer(DRAFT_IDS, ids.long(), persistent=False)  # own_state keeps it, not the model's state dict


def _tied(model: Any) -> bool:
    embeddings, head = shared_modules(model)
    return embeddings.weight is head.weight


def mark_trainable(model: Any, share_embeddings: bool) -> None:
    """Train all parameters, except embeddings and head if they belong to the target."""
    model.requires_grad_(True)
    if share_embeddings:
        for module in shared_modules(model):
            module.requires_grad_(False)


def own_state(model: Any, info: DraftInfo) -> dict[str, torch.Tensor]:
    """The draft's tensors by name, without those shared with its target and without tied duplicates."""
    shared = (
        {id(p) for module in shared_modules(model) for p in module.parameters()} if info.share_embeddings else set()
    )
    own = {name: p.detach() for name, p in model.named_parameters() if id(p) not in shared}
    own |= _kept_buffers(model, info)
    ids = getattr(model, DRAFT_IDS, None)
    return own if ids is None else {**own, DRAFT_IDS: ids}


def _kept_buffers(model: Any, info: DraftInfo) -> dict[str, torch.Tensor]:
    """Buffers that are saved with the weights, such as the experts' biases of DeepSeek-V3 and the scales of Gemma 4."""
    shared = {id(b) for module in shared_modules(model) for b in module.buffers()} if info.share_embeddings else set()
    kept = model.state_dict(keep_vars=True).keys()
    return {name: b.detach() for name, b in model.named_buffers() if name in kept and id(b) not in shared}


def save_draft(folder: Path, draft: Draft) -> None:
    """Write a draft's own tensors as safetensors, and its configuration and description as JSON.

    The card is written last and holds the weights' hash, so that a half-written pair is noticed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in own_state(draft.model, draft.info).items()}
    with disk_errors(folder):
        temporary = folder / f".{WEIGHTS}.new"
        save_file(state, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors writes 0600, which would lock others out of a shared home
        temporary.replace(folder / WEIGHTS)
    card = {"info": asdict(draft.info), "config": json.loads(draft.model.config.to_json_string(use_diff=False))}
    write_json(folder / CARD, {**card, "weights_sha256": sha256_file(folder / WEIGHTS)})


def load_draft(folder: Path, target: LoadedModel, *, dtype: torch.dtype | None = None) -> Draft:
    """Load a draft saved by `save_draft`, in the target's dtype unless another is given, sharing the target's tensors.

    Raises DraftbenchError for a folder that is damaged or was made for another target.
    """
    card = read_card(folder)
    info = card.info
    if sha256_file(folder / WEIGHTS) != card.weights_sha256:
        raise DraftbenchError(
            f"{folder / WEIGHTS} is damaged", "its hash is not the one in its card", "train or copy it again"
        )
    if info.share_embeddings and not _same_embeddings(info, target):
        raise DraftbenchError(
            f"the draft in {folder} shares embeddings with another target",
            f"it was made for {info.target_fingerprint[:12]}, this target is {target.fingerprint[:12]}",
            "load it with its own target, or `draftbench export` it and use the folder as draft.checkpoint",
        )
    with boundary(f"{folder} cannot be read", "train or copy it again"):
        model = model_of_config(card.config, target.model, dtype or target.dtype).to(target.device).eval()
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if DRAFT_IDS in state:
        cut_head(model, state[DRAFT_IDS].to(target.device))
    _refuse_unlike(folder, state, own_state(model, info))
    model.load_state_dict({name: tensor for name, tensor in state.items() if name != DRAFT_IDS}, strict=False)
    if DRAFT_IDS not in state:
        model.tie_weights()
    if info.share_embeddings:
        _share(model, target.model, dtype or target.dtype)
    model.requires_grad_(False)
    fuse_linears(model)
    return Draft(model, info)


@dataclass(frozen=True)
class Card:
    """The JSON document beside the weights of a saved draft."""

    info: DraftInfo
    config: dict[str, Any]
    weights_sha256: str


def read_card(folder: Path) -> Card:
    """Read the card of a draft folder. Raises DraftbenchError if there is no draft, or the card is damaged."""
    absent = [name for name in (CARD, WEIGHTS) if not (folder / name).exists()]
    if absent:
        raise DraftbenchError(
            f"{folder} holds no draft", f"{absent[0]} is missing", "give a run id or the draft folder of a run"
        )
    card = read_object(folder / CARD)
    if not {"info", "config", "weights_sha256"} <= card.keys():
        raise DraftbenchError(f"{folder / CARD} is damaged", "a part of it is missing", "train or copy it again")
    with boundary(f"{folder / CARD} is damaged", "train or copy it again"):
        return Card(DraftInfo(**card["info"]), {**card["config"]}, str(card["weights_sha256"]))


def _refuse_unlike(folder: Path, stored: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raise DraftbenchError unless the stored tensors are those of the draft's configuration."""
    odd = sorted(stored.keys() ^ expected.keys())
    problems = [f"{odd[0]} is {'missing' if odd[0] in expected else 'not part of it'}"] if odd else []
    problems += [
        f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        for name, tensor in stored.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        raise DraftbenchError(
            f"{folder} does not fit its own configuration: {problems[0]}", "the folder is damaged", "train it again"
        )


def _same_embeddings(info: DraftInfo, target: LoadedModel) -> bool:
    """Whether the target has the draft's embeddings: it is the draft's own, or was fine-tuned without changing them."""
    if info.target_fingerprint == target.fingerprint:
        return True
    return bool(info.embeddings_hash) and info.embeddings_hash == target.embeddings_hash


def model_of_config(config: dict[str, Any], target: Any, dtype: torch.dtype) -> Any:
    """Create a model of a card's configuration, on torch's current device.

    It has the target's own class if the type is the same: that may be code that ships with the target.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    own, kind = target.config, config["model_type"]
    if kind == own.model_type:
        return type(target)._from_config(type(own).from_dict(config), dtype=dtype)
    settings = {name: value for name, value in config.items() if name != "model_type"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=dtype)


def _share(draft_model: Any, target_model: Any, dtype: torch.dtype) -> None:
    """Use the target's own tensors if the dtype is the same, else copy their values."""
    if getattr(draft_model, DRAFT_IDS, None) is not None:
        copy_shared(draft_model, target_model)
        if dtype == target_model.dtype:
            draft_model.set_input_embeddings(target_model.get_input_embeddings())
    elif dtype == target_model.dtype:
        draft_model.set_input_embeddings(target_model.get_input_embeddings())
        draft_model.set_output_embeddings(target_model.get_output_embeddings())
    else:
        copy_shared(draft_model, target_model)


def parameter_counts(draft: Draft) -> dict[str, int]:
    """The number of the draft's parameters: in total, and its own (not shared with the target)."""
    return {
        "total": sum(p.numel() for p in draft.model.parameters()),
        "own": sum(t.numel() for t in own_state(draft.model, draft.info).values()),
    }
