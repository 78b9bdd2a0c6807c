"""Traces: rounds of speculative decoding, counted and put into tables.

Every sampled rate comes from the same list of rounds, so the five definitions and what other
systems would print can be compared on one trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from engine.decode.counts import count, share_of
from engine.decode.events import Round
from engine.decode.text import TextStream


def accepted_lengths(rounds: Sequence[Round], gamma: int) -> list[int]:
    """Histogram: rounds with 0, 1, ... gamma accepted tokens."""
    lengths = [r.accepted for r in rounds if r.drafted]
    return [lengths.count(n) for n in range(gamma + 1)]


def acceptance_by_slot(rounds: Sequence[Round], gamma: int) -> list[dict[str, float]]:
    """Acceptance at each place 1..gamma of a proposal.

    joint: this place and all before it were kept, over rounds that proposed so far and did not
    end before it. conditional: kept, over rounds in which the place was judged.
    """
    rows = []
    for slot in range(1, gamma + 1):
        judged = [r for r in rounds if r.drafted >= slot and r.accepted + r.rejected >= slot]
        open_ = [r for r in rounds if r.drafted >= slot and (r.rejected or r.accepted >= slot)]
        kept = sum(r.accepted >= slot for r in judged)
        rows.append(
            {
                "slot": slot,
                "joint": share_of(kept, len(open_)),
                "conditional": share_of(kept, len(judged)),
                "n": len(judged),
            }
        )
    return rows


def prompt_rows(rounds: Sequence[Round], prompt_ids: Sequence[str]) -> pd.DataFrame:
    """Counts of each prompt: a row a prompt, in their order."""
    by_row: dict[int, list[Round]] = {}
    for item in rounds:
        by_row.setdefault(item.row, []).append(item)
    return pd.DataFrame([{"prompt_id": prompt_ids[row], **asdict(count(some))} for row, some in sorted(by_row.items())])


def round_rows(rounds: Sequence[Round], prompt_ids: Sequence[str]) -> pd.DataFrame:
    """A row a round, with its seconds."""
    return pd.DataFrame(
        {
            "prompt_id": prompt_ids[r.row],
            "round": r.number,
            "num_draft_tokens": r.num_draft_tokens,
            "accepted": r.accepted,
            "emitted": len(r.emitted),
            "draft_s": r.draft_s,
            "verify_s": r.verify_s,
            "overhead_s": r.overhead_s,
            "finish_reason": r.finish_reason,
        }
        for r in rounds
    )


def token_rows(rounds: Sequence[Round], prompt_ids: Sequence[str], tokenizer: Any) -> pd.DataFrame:
    """A row a token, refused and discarded ones included, with p, q, the draw and readable text.

    The likeliest tokens of its position are four lists of one length: ids, texts, p and q (float32).
    """
    streams = [TextStream(tokenizer) for _ in prompt_ids]
    rows: list[dict[str, Any]] = []
    for r in rounds:
        rows += [
            {
                "prompt_id": prompt_ids[r.row],
                "round": r.number,
                "slot": slot,
                "position": t.position,
                "token_id": t.token_id,
                "text": t.text,
                "fate": str(t.fate),
                "p": t.target_prob,
                "q": t.draft_prob,
                "u": t.uniform,
                "overlap": t.overlap,
                "alt_ids": np.array([a.token_id for a in t.alternatives], np.int32),
                "alt_texts": [a.text for a in t.alternatives],
                "alt_p": np.array([a.target_prob for a in t.alternatives], np.float32),
                "alt_q": np.array([a.draft_prob for a in t.alternatives], np.float32),
            }
            for slot, t in enumerate(streams[r.row].read(r).tokens)
        ]
    return pd.DataFrame(rows)
