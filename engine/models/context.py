"""How long a text a model can read, by its configuration: the one place that says so, for a model and for a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.errors import DraftbenchError

# The words that families have for it. A configuration of Transformers may map the first to its own.
_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "max_target_positions",
    "seq_length",
    "n_ctx",
    "context_length",
)


def context_of(config: Any) -> int | None:
    """Tokens that a model of this configuration can read; None if it does not say, as of models without a limit.

    Of a model with vision or audio: that of the part that writes text. `config`: an object, or the JSON of one.
    """
    if isinstance(config, Mapping):
        text = config.get("text_config") or config
        named = [text.get(name) for name in _NAMES]
    else:
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        named = [getattr(text, name, None) for name in _NAMES]
    return next((n for n in named if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


def least_context(*limits: int | None) -> int | None:
    """The context of models that read the same text; None if none of them has a limit."""
    return min((limit for limit in limits if limit is not None), default=None)


def refuse_beyond_draft(draft: Any, texts: Iterable[tuple[str, int]]) -> None:
    """Raise DraftbenchError if a text does not fit into the draft's context. `texts`: (prompt id, most tokens).

    A draft may read less than its target. Prompts are not left out for it: what drafts are measured on must not depend
    on the draft.
    """
    _refuse_beyond(
        context_of(draft.config),
        list(texts),
        "the draft",
        "beyond its context a draft proposes noise, or fails",
        "lower max_new_tokens, set prompts.max_prompt_tokens, take the held-out ones out, or use a draft that reads as "
        "much as its target",
    )


def refuse_decoded_beyond(target: Any, draft: Any | None, texts: Iterable[tuple[str, int]]) -> None:
    """Raise DraftbenchError if a text that is timed or certified does not fit into the context of target and draft.

    `texts`: (prompt id, most tokens). These answers have lengths of their own, so a captured one may fit where these
    do not. Decoding on would read positions that a model was not made for, and the figures would be of noise.
    """
    models = {"the target": target} if draft is None else {"the target": target, "the draft": draft}
    lengths = list(texts)
    for reader, model in models.items():
        _refuse_beyond(
            context_of(model.config),
            lengths,
            reader,
            "it would be timed or certified beyond its context",
            "lower measure.speed_tokens or measure.certificate_tokens",
        )


def _refuse_beyond(limit: int | None, lengths: Sequence[tuple[str, int]], reader: str, why: str, fix: str) -> None:
    long = [] if limit is None else [(tokens, name) for name, tokens in lengths if tokens > limit]
    if long:
        tokens, name = max(long)
        share = f" ({len(long):,} of {len(lengths):,} prompts are too long)" if len(lengths) > 1 else ""
        raise DraftbenchError(
            f"prompt {name!r} and its answer may have {tokens:,} tokens, and {reader} reads {limit:,} at most{share}",
            why,
            fix,
        )
