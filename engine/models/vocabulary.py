"""Do two models mean the same tokens by the same ids?

Equal sizes do not mean equal ids, and embeddings padded for speed make sizes differ for equal
tokenizers (Qwen: 151,936 against 152,064 rows). So ids are probed, not counted.
"""

from __future__ import annotations

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
    wrong = [i for i in ids if target_tokens[i] != draft_tokens[i]]
    if wrong:
        first = wrong[0]
        raise _mismatch(
            f"{len(wrong):,} of {size:,} ids differ; id {first} is {target_tokens[first]!r} in the target "
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
    """Draft logits [..., draft_rows] cut or padded with -inf to [..., target_rows].

    Rows beyond the target's can never be accepted, and a missing row has probability zero.
    """
    missing = target_rows - draft_logits.shape[-1]
    if missing <= 0:
        return draft_logits[..., :target_rows]
    return torch.nn.functional.pad(draft_logits, (0, missing), value=float("-inf"))
