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

from engine.config.lora import DraftLoraSpec
from engine.config.schema import DraftSpec, ModelSpec
from engine.errors import DraftbenchError, boundary
from engine.fileio import disk_errors, read_object, sha256_file, write_json
from engine.models.ends import (
    check_shared,
    copy_shared,
    cut_head,
    mark_trainable,
    refuse_other_ends,
    share,
    shared_modules,
)
from engine.models.fused_linears import fuse_linears
from engine.models.head import DRAFT_IDS, check_head
from engine.models.load import LoadedModel, load_model
from engine.models.lora import AdapterInfo, Lora, fresh_adapter, shared_folder, stored_adapter
from engine.models.precision import cast
from engine.models.shallow import check_copied, copy_layers, fitting_layers, shallow_model
from engine.models.vocabulary import check_vocabulary

__all__ = [
    "CARD",
    "WEIGHTS",
    "Card",
    "Draft",
    "DraftInfo",
    "check_shared",
    "check_trim",
    "copy_shared",
    "cut_head",
    "initialise_draft",
    "kept_state",
    "load_draft",
    "mark_trainable",
    "model_of_config",
    "own_state",
    "parameter_counts",
    "read_card",
    "save_draft",
    "shared_modules",
    "trained_parameters",
    "trim",
    "with_adapter",
]

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
    lora: AdapterInfo | None = None
    """Of a draft that is an adapter on a shared draft: its folder holds the adapter alone."""


@dataclass(frozen=True)
class Draft:
    """A draft model in memory and its description.

    `lora`: the adapter that is trained instead of the model's weights, merged into them; None for any other draft, and
    for one that was loaded to be used.
    """

    model: Any
    info: DraftInfo
    lora: Lora | None = None


def initialise_draft(
    target: LoadedModel, spec: DraftSpec, *, seed: int, checkpoint: Path | None = None, begun: bool = False
) -> Draft:
    """Create a float32 draft on `target.draft_device`, with its trainable parameters marked.

    `checkpoint` is the folder of a draft of this project. If `spec.checkpoint` names another model, that model is
    loaded and its vocabulary compared with the target's. Raises DraftbenchError for a checkpoint whose own embeddings
    or head the target's would replace, unless a run has `begun` with it so, as earlier versions let it.
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
        lora=None,  # of a checkpoint with an adapter: it is merged, and trained on as a plain draft
    )
    if spec.share_embeddings:
        if spec.init == "checkpoint" and not draft.info.share_embeddings and not begun:
            refuse_other_ends(draft.model, target.model)
        copy_shared(draft.model, target.model)
    mark_trainable(draft.model, spec.share_embeddings)
    return Draft(draft.model, info)


def _from_layers(target: LoadedModel, spec: DraftSpec, seed: int) -> Draft:
    """Create a model of the target's kind with fewer layers, copied from the target or random."""
    layers = fitting_layers(target.model, spec.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = shallow_model(target.model, layers).to(target.draft_device).eval()
    copied = spec.init == "layers"
    if copied:
        copy_layers(target.model, model, layers)
        check_copied(target.model, model, layers)
    return Draft(model, DraftInfo(target.fingerprint, spec.share_embeddings, spec.init, layers if copied else []))


def _from_other_model(target: LoadedModel, spec: DraftSpec) -> Draft:
    assert spec.checkpoint is not None
    other = load_model(ModelSpec(model=spec.checkpoint, device=str(target.draft_device)), dtype="float32")
    check_vocabulary(target.tokenizer, other.tokenizer)
    check_head(other.model)
    return Draft(other.model, DraftInfo(target.fingerprint, False, f"checkpoint {spec.checkpoint}", []))


def with_adapter(draft: Draft, spec: DraftLoraSpec, shared: Path, *, name: str, seed: int) -> Draft:
    """The draft with a fresh adapter, in training instead of its weights. `shared`: the folder that it is kept in.

    Its model is changed by the training. `name` is what the recipe calls the shared draft.
    """
    sha256 = read_card(shared).weights_sha256
    lora = fresh_adapter(draft.model, spec, seed=seed, shared_sha256=sha256, shared_name=name)
    draft.model.requires_grad_(False)
    for layer in lora.layers.values():
        layer.weight.requires_grad_(True)  # what changes in training: a copy that is renewed takes these
    return Draft(draft.model, replace(draft.info, lora=lora.info), lora)


def trim(draft: Draft, target: LoadedModel, ids: torch.Tensor) -> Draft:
    """Return the draft with a head for only these ids of the target, in their order; its body is the same model.

    ids: [rows], int64, distinct. If the draft shares its target's head the rows are copied from the target, so that a
    trimmed draft can be trimmed differently; otherwise they are the draft's own.
    """
    check_trim(draft, target, len(ids))
    model, shares = draft.model, draft.info.share_embeddings
    source = (target.model if shares else model).get_output_embeddings()
    cut_head(model, ids.to(target.draft_device))
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(source.weight[ids.to(source.weight.device)])
        if source.bias is not None:
            model.get_output_embeddings().bias.copy_(source.bias[ids.to(source.bias.device)])
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


def trained_parameters(draft: Draft) -> dict[str, torch.nn.Parameter]:
    """The float32 parameters that training changes, by name: an adapter's, or those of the model."""
    if draft.lora is not None:
        return draft.lora.parameters
    return {name: parameter for name, parameter in draft.model.named_parameters() if parameter.requires_grad}


def kept_state(draft: Draft) -> dict[str, torch.Tensor]:
    """The tensors that a draft's folder holds: its own or, of a draft with an adapter, the adapter's.

    The ids of a trimmed draft with an adapter are among them, since they need not be those of the shared draft.
    """
    if draft.lora is None:
        return own_state(draft.model, draft.info)
    ids = getattr(draft.model, DRAFT_IDS, None)
    return draft.lora.state() if ids is None else {**draft.lora.state(), DRAFT_IDS: ids}


def save_draft(folder: Path, draft: Draft) -> None:
    """Write what a draft's folder holds (`kept_state`) as safetensors, its configuration and description as JSON.

    The card is written last and holds the weights' hash, so that a half-written pair is noticed. Equal adapters on two
    shared drafts differ in that hash, for which the file names the shared draft.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in kept_state(draft).items()}
    # a single entry: safetensors writes several in any order, and the same weights must give the same bytes
    named = {"format": "pt"} if draft.lora is None else {"shared_sha256": draft.lora.info.shared_sha256}
    with disk_errors(folder):
        temporary = folder / f".{WEIGHTS}.new"
        save_file(state, temporary, metadata=named)
        temporary.chmod(0o644)  # safetensors writes 0600, which would lock others out of a shared home
        temporary.replace(folder / WEIGHTS)
    info = asdict(draft.info)
    if draft.info.lora is None:
        del info["lora"]  # a card of an earlier version has none
    card = {"info": info, "config": json.loads(draft.model.config.to_json_string(use_diff=False))}
    write_json(folder / CARD, {**card, "weights_sha256": sha256_file(folder / WEIGHTS)})


def load_draft(folder: Path, target: LoadedModel, *, dtype: torch.dtype | None = None) -> Draft:
    """Load a draft saved by `save_draft`, in the target's dtype unless another is given, sharing the target's tensors.

    Raises DraftbenchError for a folder that is damaged or was made for another target.
    """
    card, dtype = read_card(folder), dtype or target.dtype
    read = _read_plain if card.info.lora is None else _read_adapted
    draft = read(folder, card, target, dtype)
    if draft.info.share_embeddings:
        share(draft.model, target.model, dtype)
    draft.model.requires_grad_(False)
    fuse_linears(draft.model)
    return draft


def _read_plain(folder: Path, card: Card, target: LoadedModel, dtype: torch.dtype) -> Draft:
    """The draft as its folder holds it, without the target's embeddings and head."""
    info, state = card.info, _stored(folder, card)
    _refuse_other_embeddings(folder, info, target)
    with boundary(f"{folder} cannot be read", "train or copy it again"):
        model = model_of_config(card.config, target.model, dtype).to(target.draft_device).eval()
    if DRAFT_IDS in state:
        cut_head(model, state[DRAFT_IDS].to(target.draft_device))
    _refuse_unlike(folder, state, own_state(model, info))
    model.load_state_dict({name: tensor for name, tensor in state.items() if name != DRAFT_IDS}, strict=False)
    if DRAFT_IDS not in state:
        model.tie_weights()
    return Draft(model, info)


def _read_adapted(folder: Path, card: Card, target: LoadedModel, dtype: torch.dtype) -> Draft:
    """As `_read_plain`, of an adapter merged into its shared draft: in float32, and rounded once."""
    info, state = card.info, _stored(folder, card)
    assert info.lora is not None
    _refuse_other_embeddings(folder, info, target)
    ids = state.pop(DRAFT_IDS, None)
    shared = shared_folder(folder, info.lora)
    draft = _read_plain(shared, read_card(shared), target, torch.float32)
    if draft.info.share_embeddings:
        copy_shared(draft.model, target.model)
    stored_adapter(draft.model, info.lora, state).check_merge()
    if ids is not None:
        draft = trim(draft, target, ids)
    return Draft(cast(draft.model, dtype), info)


def _stored(folder: Path, card: Card) -> dict[str, torch.Tensor]:
    """The tensors in a draft's folder. Raises DraftbenchError if they are not those of its card."""
    if sha256_file(folder / WEIGHTS) != card.weights_sha256:
        raise DraftbenchError(
            f"{folder / WEIGHTS} is damaged", "its hash is not the one in its card", "train or copy it again"
        )
    with boundary(f"{folder} cannot be read", "train or copy it again"), safe_open(folder / WEIGHTS, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


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
        info = {**card["info"]}
        if info.get("lora") is not None:
            info["lora"] = AdapterInfo(**info["lora"])
        return Card(DraftInfo(**info), {**card["config"]}, str(card["weights_sha256"]))


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


def _refuse_other_embeddings(folder: Path, info: DraftInfo, target: LoadedModel) -> None:
    if info.share_embeddings and not _same_embeddings(info, target):
        raise DraftbenchError(
            f"the draft in {folder} shares embeddings with another target",
            f"it was made for {info.target_fingerprint[:12]}, this target is {target.fingerprint[:12]}",
            "load it with its own target, or `draftbench export` it and use the folder as draft.checkpoint",
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


def parameter_counts(draft: Draft) -> dict[str, int]:
    """The number of the draft's parameters: in total, its own (not shared with the target), and those trained."""
    return {
        "total": sum(p.numel() for p in draft.model.parameters()),
        "own": sum(t.numel() for t in own_state(draft.model, draft.info).values()),
        "trained": sum(p.numel() for p in trained_parameters(draft).values()),
    }
