"""Split a causal model at its output head into hidden states and logits.

The exact signal stores hidden states, and losses are computed for a chunk of positions at a time; both need
`logits = head(hidden)` outside the model's own forward pass.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.errors import DraftbenchError, boundary
from engine.models.fused_linears import linear
from engine.models.team import mirrored

# The buffer in which a draft of a trimmed vocabulary keeps the target's id of each row of its head.
DRAFT_IDS = "draft_token_ids"
# Values of one [chunk of positions, vocabulary] tensor. 2**22 in float32 are 16 MB: measured fastest where a chunk
# stays in the last-level cache, and small enough that the allocator reuses it. A GPU has no such cache and wants large
# multiplications: on an H200 2**26 trained four times as fast as 2**22, and no slower than 2**30.
CHUNK_VALUES = 2**22
GPU_CHUNK_VALUES = 2**26
_PROBED = 8  # tokens that a check feeds to a model
_OTHER_MODEL = "use a causal language model whose last step is its output head"
_CROSS = re.compile("encoder_attn|cross|vision|audio")  # attention to something that is not the text
_ROWS = 16  # rows of the head that stands in for a model's own where there are no weights


@dataclass(frozen=True)
class Head:
    """A model's output projection with the scalings that some families apply after it."""

    weight: torch.Tensor  # [rows, width]
    bias: torch.Tensor | None  # [rows]
    scale: float = 1.0
    softcap: float | None = None
    ids: torch.Tensor | None = None  # [rows], the target's id of each row; None: row i is id i

    @staticmethod
    def of(model: Any, dtype: torch.dtype | None = None) -> Head:
        """The head of a Transformers causal model, cast to `dtype` if given."""
        projection, config = model.get_output_embeddings(), text_config(model)
        weight, bias = projection.weight, getattr(projection, "bias", None)
        if dtype is not None:
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        return Head(
            weight, bias, scale, getattr(config, "final_logit_softcapping", None), getattr(model, DRAFT_IDS, None)
        )

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden: [..., width] -> logits: [..., rows], in the head's dtype.

        `out`: memory for those of hidden states [position, width], where nothing needs a gradient.
        """
        states = hidden.to(self.weight.dtype)
        if out is None:
            logits = linear(states, self.weight, self.bias)
        elif self.bias is None:
            logits = torch.mm(states, self.weight.t(), out=out)
        else:
            logits = torch.addmm(self.bias, states, self.weight.t(), out=out)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def before_scaling(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The gradient of `hidden @ weight + bias`, from that of the logits: [..., rows], like all of them."""
        if self.softcap is not None:
            gradient = gradient * (1 - (logits.float() / self.softcap).square())
        return gradient if self.scale == 1.0 else gradient * self.scale

    def to(self, device: torch.device) -> Head:
        """The head on a device: itself if it is there, else a copy, as a draft on a card of its own needs it."""
        if self.weight.device == device:
            return self
        bias, ids = (None if tensor is None else tensor.to(device) for tensor in (self.bias, self.ids))
        return replace(self, weight=self.weight.to(device), bias=bias, ids=ids)

    def of_ids(self, ids: torch.Tensor) -> Head:
        """The head with the rows of these ids alone, as a draft with a trimmed vocabulary has it."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids], ids=ids)


def chunk_size(vocab: int, device: torch.device | None = None) -> int:
    """Positions per chunk for a vocabulary of that size; `device`: where the logits are, a CPU if not given."""
    on_gpu = device is not None and device.type == "cuda"
    return max(1, (GPU_CHUNK_VALUES if on_gpu else CHUNK_VALUES) // vocab)


def text_config(model: Any) -> Any:
    """The configuration of the part that writes text: the model's own, or one inside that of a vision model."""
    return model.config.get_text_config()


def body(model: Any) -> Any:
    """The module whose `last_hidden_state` enters the head.

    It is `base_model`, except where a family's prefix names no attribute of the causal model (Llama 4).
    """
    base = model.base_model
    return getattr(model, "model", base) if base is model else base


def readable(draft_model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Replace ids without an embedding in the draft by its last one; any shape.

    Only for drafts: a target with padding rows may write such an id, and a draft that cannot read it may still propose
    tokens after it. A target reads its own tokenizer's ids: see `refuse_unknown`.
    """
    return ids.clamp_max(draft_model.get_input_embeddings().weight.shape[0] - 1)


def refuse_unknown(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the ids, of any shape. Raises DraftbenchError if the model has no embedding for one."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    if not ids.numel():
        return ids
    lowest, highest = torch.stack([ids.min(), ids.max()]).tolist()
    if lowest < 0 or highest >= rows:
        raise DraftbenchError(
            f"token id {highest if highest >= rows else lowest} has no embedding in {type(model).__name__}",
            f"it has ids 0 to {rows - 1:,}; its tokenizer writes others, so the two do not belong together",
            "use the tokenizer that was saved with the model",
        )
    return ids


@mirrored
def hidden_states(
    model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, *, is_draft: bool = False, cache: Any = None
) -> torch.Tensor:
    """Compute the input of the head: [batch, position, width] for ids [batch, position].

    `mask`: [batch, position], 1 for real tokens; padding is on the right. An id without an embedding raises
    DraftbenchError, unless `is_draft`: then it is replaced (`readable`). `cache`: what stands before the ids, to which
    they are added.
    """
    known = readable(model, ids) if is_draft else refuse_unknown(model, ids)
    before = {} if cache is None else {"past_key_values": cache}
    output = body(model)(input_ids=known, attention_mask=mask, use_cache=cache is not None, **before)
    states: torch.Tensor = output.last_hidden_state
    return states


@mirrored
@torch.no_grad()
def check_head(model: Any) -> None:
    """Refuse a model whose logits are not `head(hidden)`, or that reads later tokens: its signal would be wrong."""
    name = type(model).__name__
    with boundary(f"{name} cannot be split into hidden states and an output head", _OTHER_MODEL):
        rows = model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(1, _PROBED + 1, device=model.device).unsqueeze(0) % rows
        expected = model(input_ids=ids, use_cache=False).logits.float()
        hidden = hidden_states(model, ids)
        actual = Head.of(model).logits(hidden).float()
        half = _PROBED // 2
        other = torch.cat([ids[:, :half], ids[:, half:].flip(-1)], dim=-1)  # the first half must not depend on this
        moved = (hidden - hidden_states(model, other))[:, :half].float()
    if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise _not_its_head(name)
    if float(moved.norm()) > 5e-2 * float(hidden[:, :half].float().norm()):
        raise _reads_ahead(name)


@torch.no_grad()
def check_head_outline(model: Any) -> None:
    """`check_head` for a model on the meta device, without weights: only the part after its layers is computed.

    The layers are left out and the head has a few random rows, so that any size takes milliseconds.
    """
    name, own = type(model).__name__, model.get_output_embeddings()
    if any(getattr(part, "is_causal", None) is False and not _CROSS.search(at) for at, part in model.named_modules()):
        raise _reads_ahead(name)
    with boundary(f"{name} cannot be split into hidden states and an output head", _OTHER_MODEL):
        rows, width = min(_ROWS, own.weight.shape[0]), own.weight.shape[1]
        small = torch.nn.Linear(width, rows, bias=getattr(own, "bias", None) is not None, device="cpu")
        torch.nn.init.normal_(small.weight, std=width**-0.5)
        hidden = torch.randn(1, _PROBED, width)
        with _stand_ins(model, small, hidden):
            expected = model(input_ids=torch.ones(1, _PROBED, dtype=torch.long), use_cache=False).logits
            actual = Head.of(model).logits(hidden)
    if expected.shape != actual.shape or not torch.allclose(expected.float(), actual, rtol=1e-2, atol=1e-2):
        raise _not_its_head(name)


class _BodyOutput:
    """The output of a body that was not run: its hidden states, and None for everything else that families add."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]


@contextlib.contextmanager
def _stand_ins(model: Any, head: torch.nn.Module, hidden: torch.Tensor) -> Iterator[None]:
    """Give the model another head and a body that only returns `hidden`; undone on leaving."""
    own = model.get_output_embeddings()
    silent = {id(module): module for module in (body(model), model.get_decoder()) if module is not model}.values()
    for module in silent:
        module.forward = lambda *_, **__: _BodyOutput(hidden)
    model.set_output_embeddings(head)
    try:
        yield
    finally:
        model.set_output_embeddings(own)
        for module in silent:
            del module.forward


def _not_its_head(name: str) -> DraftbenchError:
    return DraftbenchError(
        f"the logits of {name} are not its head applied to its last hidden state",
        "decoding, the exact signal and training rely on that split",
        f"{_OTHER_MODEL}; merge an adapter of the head first",
    )


def _reads_ahead(name: str) -> DraftbenchError:
    return DraftbenchError(
        f"{name} reads the tokens that follow: its output at a position changes with later ones",
        "it is an encoder, which cannot be decoded token by token",
        "use a causal model; if it is one, its config.json says is_decoder: true",
    )
