"""A draft with as many rows as the target that it is served with, for engines that know no other kind.

Of a trimmed vocabulary the rows that were cut off cannot simply be put back: the draft never learned to keep its
probability away from them. Nor can they be zero, for a logit of zero may be a good one. What is
wanted is a row that reads a very low logit at every hidden state the draft can be in. Hidden
states after a final norm have a strong mean, so such a row exists: the least-squares fit of a
constant to a sample of them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from engine.errors import DraftbenchError
from engine.models.draft import Draft
from engine.models.head import DRAFT_IDS, Head

_BELOW = 60.0  # nats under the lowest logsumexp seen: with 10^5 such ids still less than 1e-15 of probability
_ENOUGH = 30.0  # nats that must be left at the worst hidden state of those the fit did not see
_RIDGE = 1e-3


def with_whole_vocabulary(draft: Draft, hidden: torch.Tensor, rows: int) -> Any:
    """A copy of the draft's model whose untied head has `rows` rows and never proposes one it had not.

    hidden: [position, width], what enters the draft's head on text of its target; every other one
    is kept back to check the fit. Raises DraftbenchError if no row stays low there.
    """
    head = Head.of(draft.model, torch.float32)
    assert head.ids is not None
    row = _never_proposed(head, hidden.float()).to(draft.model.dtype)
    model = copy.deepcopy(draft.model)
    whole = torch.nn.Linear(hidden.shape[1], rows, bias=head.bias is not None, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        whole.weight.copy_(row.expand(rows, -1))
        whole.weight[head.ids] = head.weight.to(model.dtype)
        if head.bias is not None:
            whole.bias.fill_(-_BELOW).index_copy_(0, head.ids, head.bias.to(model.dtype))
    delattr(model, DRAFT_IDS)
    model.set_output_embeddings(whole)
    return model


@torch.no_grad()
def with_rows(model: Any, hidden: torch.Tensor, rows: int) -> Any:
    """The model with `rows` rows of embeddings and head: the last ones left out, or more added that it never proposes.

    hidden: as above. It is for rows that no token uses. Raises DraftbenchError if no row stays low there.
    """
    head, before = Head.of(model, torch.float32), int(model.get_output_embeddings().weight.shape[0])
    row = _never_proposed(head, hidden.float()).to(model.dtype) if rows > before else None
    model = copy.deepcopy(model)
    model.resize_token_embeddings(rows, mean_resizing=False)
    if row is not None:
        last = model.get_output_embeddings()
        model.get_input_embeddings().weight[before:] = 0.0
        last.weight[before:] = row  # after the embeddings, which may be the same tensor
        if getattr(last, "bias", None) is not None:
            last.bias[before:] = -_BELOW
    return model


def _never_proposed(head: Head, states: torch.Tensor) -> torch.Tensor:
    """A row of the head that is low at every hidden state: [width]. states: [position, width], float32."""
    totals = torch.logsumexp(head.logits(states), -1)
    row = _low_row(states[::2], (float(totals.min()) - _BELOW) / head.scale)
    left = totals[1::2] - replace(head, weight=row[None], bias=None, ids=None).logits(states[1::2])[:, 0]
    if len(left) == 0 or float(left.min()) < _ENOUGH:
        raise DraftbenchError(
            "the draft cannot be given the ids that it never proposes",
            f"no row of the head stays {_ENOUGH:g} nats below the others on {len(left)} hidden states",
            "measure the run on more held-out tokens, or train the draft with its whole vocabulary",
        )
    return row


def _low_row(states: torch.Tensor, wanted: float) -> torch.Tensor:
    """The row whose product with each state is as near `wanted` as it can be. states: [position, width] -> [width]."""
    wide = states.double()
    gram = wide.T @ wide + _RIDGE * torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    row: torch.Tensor = torch.linalg.solve(gram, wide.T @ wide.new_full((len(wide),), wanted))
    return row.float()
