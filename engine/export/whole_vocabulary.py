"""A draft of a trimmed vocabulary as a model with all of its target's ids, for engines that know no other kind.

The rows that were cut off cannot simply be put back: the draft never learned to keep its
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
    states = hidden.float()
    totals = torch.logsumexp(head.logits(states), -1)
    row = _low_row(states[::2], (float(totals.min()) - _BELOW) / head.scale).to(draft.model.dtype)
    left = totals[1::2] - replace(head, weight=row.float()[None], bias=None, ids=None).logits(states[1::2])[:, 0]
    if len(left) == 0 or float(left.min()) < _ENOUGH:
        raise DraftbenchError(
            "the draft's trimmed vocabulary cannot be exported as a whole one",
            f"no row of the head stays {_ENOUGH:g} nats below the others on {len(left)} hidden states",
            "measure the run on more held-out tokens, or train the draft with its whole vocabulary",
        )
    model = copy.deepcopy(draft.model)
    whole = torch.nn.Linear(states.shape[1], rows, bias=head.bias is not None, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        whole.weight.copy_(row.expand(rows, -1))
        whole.weight[head.ids] = head.weight.to(model.dtype)
        if head.bias is not None:
            whole.bias.fill_(-_BELOW).index_copy_(0, head.ids, head.bias.to(model.dtype))
    delattr(model, DRAFT_IDS)
    model.set_output_embeddings(whole)
    return model


def _low_row(states: torch.Tensor, wanted: float) -> torch.Tensor:
    """The row whose product with each state is as near `wanted` as it can be. states: [position, width] -> [width]."""
    wide = states.double()
    gram = wide.T @ wide + _RIDGE * torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    row: torch.Tensor = torch.linalg.solve(gram, wide.T @ wide.new_full((len(wide),), wanted))
    return row.float()
