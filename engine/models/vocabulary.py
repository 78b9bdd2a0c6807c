"""Check that two models have the same tokens for the same ids, and map the ids of a trimmed vocabulary.

Equal sizes do not imply equal ids, and embeddings padded for speed make sizes differ for equal tokenizers (Qwen:
151,936 and 152,064 rows). So ids are compared, not counted.

A draft may have fewer tokens than its target: its head is most of its cost, and most of the head's rows are never
proposed. Its q is zero for the other tokens, which speculative sampling allows: the output stays the target's, and at
worst a proposal is rejected where the target writes a token that the draft does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from engine.errors import DraftbenchError

PROBES = (
    "The mitochondrion's membrane (5 nm thick) isn't flat.",
    '{"name": "get_weather", "arguments": {"city": "Zürich"}}',
    "请用三句话介绍光合作用。",
    "def f(x):\n    return x ** 2  # 平方 🙂",
)


def check_vocabulary(target_tokenizer: Any, draft_tokenizer: Any) -> None:
    """Raise DraftbenchError unless every shared id and every probe text agree."""
    size = min(len(target_tokenizer), len(draft_tokenizer))
    ids = list(range(size))
    target_tokens = target_tokenizer.convert_ids_to_tokens(ids)
    draft_tokens = draft_tokenizer.convert_ids_to_tokens(ids)
    different = [i for i in ids if target_tokens[i] != draft_tokens[i]]
    if different:
        first = different[0]
        raise _mismatch(
            f"{len(different):,} of {size:,} ids differ; id {first} is {target_tokens[first]!r} in the target "
            f"and {draft_tokens[first]!r} in the draft"
        )
    for text in PROBES:
        if target_tokenizer.encode(text) != draft_tokenizer.encode(text):
            raise _mismatch(f"the same ids, but {text!r} is split differently")
    if abs(len(target_tokenizer) - len(draft_tokenizer)) > 0:
        extra = max((target_tokenizer, draft_tokenizer), key=len).convert_ids_to_tokens([size])[0]
        raise _mismatch(f"one tokenizer knows {size:,} tokens and the other more, for example {extra!r}")


def _mismatch(detail: str) -> DraftbenchError:
    return DraftbenchError(
        f"target and draft do not share a vocabulary: {detail}",
        "speculative sampling compares probabilities id by id",
        "use a draft of the target's family, or draft.init: layers",
    )


def align_logits(draft_logits: torch.Tensor, target_rows: int) -> torch.Tensor:
    """Cut draft logits [..., draft_rows] or pad them with -inf to [..., target_rows].

    Rows beyond the target's can never be accepted, and a missing row has probability zero.
    """
    missing = target_rows - draft_logits.shape[-1]
    if missing <= 0:
        return draft_logits[..., :target_rows]
    return torch.nn.functional.pad(draft_logits, (0, missing), value=float("-inf"))


def spread(draft_probs: torch.Tensor, ids: torch.Tensor | None, target_rows: int) -> torch.Tensor:
    """Convert probabilities over a draft's own rows [..., rows] to ones over the target's ids [..., target_rows].

    `ids`: [rows], the target's id of each row; None if they are the target's first rows.
    """
    if ids is None:
        missing = target_rows - draft_probs.shape[-1]
        return draft_probs if missing == 0 else torch.nn.functional.pad(draft_probs, (0, missing))
    whole = draft_probs.new_zeros(*draft_probs.shape[:-1], target_rows)
    return whole.index_copy_(-1, ids, draft_probs)


def row_of_ids(ids: torch.Tensor, vocab: int) -> torch.Tensor:
    """The row of each of the target's ids in a trimmed head, -1 if it has none. ids: [rows] -> [vocab], int64."""
    rows = torch.full((vocab,), -1, dtype=torch.long, device=ids.device)
    return rows.index_copy_(0, ids, torch.arange(len(ids), device=ids.device))


def known_rows(token_ids: torch.Tensor, rows: int, ids: torch.Tensor | None, vocab: int) -> torch.Tensor:
    """The row of each token in a draft's head, -1 for one that it does not have; in the shape of `token_ids`.

    `rows`: of the head. `ids`: [rows], the target's id of each row; None if they are the target's first rows. `vocab`:
    number of ids that the draft can read, fewer than its target's if that has padding rows.
    """
    if ids is None:
        return torch.where(token_ids < rows, token_ids, -1)
    head_rows = row_of_ids(ids, vocab)[token_ids.clamp_max(vocab - 1)]
    return torch.where(token_ids < vocab, head_rows, -1)


def frequent_ids(counts: torch.Tensor, size: int, *, always: Iterable[int], then: Sequence[int] = ()) -> torch.Tensor:
    """Select the `size` ids of a trimmed draft, most frequent first: [size], int64.

    counts: [vocab], the number of times each id was written. `always` are kept whatever their count (ids that end an
    answer). If fewer ids occurred than `size`, those of `then` follow in their order, and then the lowest ids, which in
    a byte-pair vocabulary are the earliest merges.
    """
    ranked = counts.argsort(descending=True, stable=True)
    seen = ranked[: int((counts > 0).sum())].tolist()
    wanted = dict.fromkeys([*sorted(always), *seen, *then, *range(len(counts))])
    return torch.tensor(list(wanted)[:size])
