"""The two ends of a model, input embeddings and output head, which a draft can share with its target."""

from __future__ import annotations

from typing import Any

import torch

from engine.errors import DraftbenchError
from engine.models.head import DRAFT_IDS


def shared_modules(model: Any) -> list[Any]:
    """The two modules that a draft can share with its target: input embeddings and output head."""
    return [model.get_input_embeddings(), model.get_output_embeddings()]


@torch.no_grad()
def copy_shared(draft_model: Any, target_model: Any) -> None:
    """Set the draft's embeddings and head to the target's values."""
    check_shared(draft_model, target_model)
    for own, source in zip(shared_modules(draft_model), shared_modules(target_model), strict=True):
        rows = slice(None) if own is draft_model.get_input_embeddings() else _head_rows(draft_model)
        own.weight.copy_(source.weight[_on(rows, source.weight)])
        if getattr(own, "bias", None) is not None and getattr(source, "bias", None) is not None:
            own.bias.copy_(source.bias[_on(rows, source.bias)])


def check_shared(draft_model: Any, target_model: Any) -> None:
    """Raise DraftbenchError if the draft cannot use the target's embeddings and head. Both may have no weights."""
    if tied(draft_model) and not tied(target_model):
        raise DraftbenchError(
            "the draft ties its embeddings to its head, the target does not",
            "a single tensor cannot hold the values of two",
            "set draft.share_embeddings: false",
        )
    for own, source in zip(shared_modules(draft_model), shared_modules(target_model), strict=True):
        rows = slice(None) if own is draft_model.get_input_embeddings() else _head_rows(draft_model)
        if own.weight.shape != source.weight[_on(rows, source.weight)].shape:
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


@torch.no_grad()
def refuse_other_ends(draft_model: Any, target_model: Any) -> None:
    """Raise DraftbenchError unless the draft's embeddings and head have the target's values, which would replace them.

    Compared as bfloat16, like `engine.models.embeddings`: a model has the same embeddings in every dtype.
    """
    check_shared(draft_model, target_model)
    for own, source in zip(shared_modules(draft_model), shared_modules(target_model), strict=True):
        is_input = own is draft_model.get_input_embeddings()
        rows = slice(None) if is_input else _head_rows(draft_model)
        theirs = source.weight[_on(rows, source.weight)].to(own.weight.device, torch.bfloat16)
        other = int((own.weight.to(torch.bfloat16) != theirs).any(dim=1).sum())
        if other:
            raise other_ends("embeddings" if is_input else "output rows", f"{other:,} of {len(theirs):,} rows differ")


def other_ends(part: str, why: str) -> DraftbenchError:
    """The refusal of a checkpoint whose embeddings or head would be replaced by others."""
    return DraftbenchError(
        f"the {part} of the checkpoint differ from the target's: {why}",
        "draft.share_embeddings, which is the default, would replace what its layers were trained with",
        "set draft.share_embeddings: false, which keeps the checkpoint's own",
    )


def _head_rows(draft_model: Any) -> Any:
    """The rows of its target's head that a draft has: some ids, or all."""
    ids = getattr(draft_model, DRAFT_IDS, None)
    return slice(None) if ids is None else ids


def _on(rows: Any, tensor: torch.Tensor) -> Any:
    """The same rows where the tensor is: a draft may be on another device than its target."""
    return rows.to(tensor.device) if isinstance(rows, torch.Tensor) else rows


def cut_head(model: Any, ids: torch.Tensor) -> None:
    """Give the model an untied head of len(ids) rows, still without values, and store the ids of its rows."""
    old = model.get_output_embeddings()
    new = torch.nn.Linear(
        old.weight.shape[1], len(ids), bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
    )
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(new)
    model.register_buffer(DRAFT_IDS, ids.long(), persistent=False)  # own_state keeps it, not the model's state dict


def tied(model: Any) -> bool:
    embeddings, head = shared_modules(model)
    return embeddings.weight is head.weight


def mark_trainable(model: Any, share_embeddings: bool) -> None:
    """Train all parameters, except embeddings and head if they belong to the target."""
    model.requires_grad_(True)
    if share_embeddings:
        for module in shared_modules(model):
            module.requires_grad_(False)


def share(draft_model: Any, target_model: Any, dtype: torch.dtype) -> None:
    """Use the target's own tensors if dtype and device are the same, else copy their values."""
    embeddings, head = shared_modules(target_model)
    if dtype != target_model.dtype or draft_model.get_input_embeddings().weight.device != embeddings.weight.device:
        copy_shared(draft_model, target_model)
    elif getattr(draft_model, DRAFT_IDS, None) is not None:
        copy_shared(draft_model, target_model)
        draft_model.set_input_embeddings(_without_hooks(embeddings, draft_model.get_input_embeddings()))
    else:
        draft_model.set_input_embeddings(_without_hooks(embeddings, draft_model.get_input_embeddings()))
        draft_model.set_output_embeddings(_without_hooks(head, draft_model.get_output_embeddings()))


def _without_hooks(theirs: Any, mine: Any) -> Any:
    """The target's module or, if it moves what it reads between devices, the draft's own with the target's tensors."""
    if not hasattr(theirs, "_hf_hook"):
        return theirs
    mine.weight = theirs.weight
    if getattr(theirs, "bias", None) is not None:
        mine.bias = theirs.bias
    return mine
