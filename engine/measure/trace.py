"""Traces: rounds of speculative decoding, counted and put into tables.

Every sampled rate comes from the same list of rounds, so their definitions and what other
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
from engine.measure.statistics import bootstrap_ratio
from engine.records.summary import SlotAcceptance


def accepted_lengths(rounds: Sequence[Round], gamma: int) -> list[int]:
    """Histogram: rounds with 0, 1, ... gamma accepted tokens."""
    lengths = [r.accepted for r in rounds if r.drafted]
    return [lengths.count(n) for n in range(gamma + 1)]


def judged_at(rounds: pd.DataFrame, slot: int) -> dict[str, pd.Series]:
    """Which rounds tell something of a place (1, 2, ...) of the proposal: for each kind of acceptance a bool [round].

    joint: this place and all before it were kept, so rounds count that proposed so far and did not end before it.
    conditional: this place was kept given that it was judged, so rounds count in which it was. Of either, the rounds
    that kept it have `accepted >= slot`. `rounds`: a row per round with num_draft_tokens, accepted, emitted.
    """
    proposed, kept = rounds.num_draft_tokens >= slot, rounds.accepted >= slot
    # a round emits its accepted tokens and one more, unless the answer ended: after a refusal the corrected token
    refused = (rounds.emitted > rounds.accepted) & (rounds.accepted < rounds.num_draft_tokens)
    return {
        "joint": proposed & (refused | kept),
        "conditional": proposed & (kept | (refused & (rounds.accepted == slot - 1))),
    }


def acceptance_by_slot(rounds: Sequence[Round], gamma: int) -> list[SlotAcceptance]:
    """Acceptance at each place 1..gamma of a proposal (see `judged_at`)."""
    counts = [(r.num_draft_tokens, r.accepted, len(r.emitted)) for r in rounds]
    table = pd.DataFrame(counts, columns=["num_draft_tokens", "accepted", "emitted"])
    rows = []
    for slot in range(1, gamma + 1):
        judged = judged_at(table, slot)
        kept = int((judged["conditional"] & (table.accepted >= slot)).sum())
        joint, conditional = int(judged["joint"].sum()), int(judged["conditional"].sum())
        shares = {"joint": share_of(kept, joint), "conditional": share_of(kept, conditional)}
        rows.append(SlotAcceptance(slot=slot, **shares, n=conditional))
    return rows


def slot_intervals(rounds: pd.DataFrame) -> pd.DataFrame:
    """The same with intervals over prompts: slot, kind, value, low, high, n_prompts, n. A row per place and kind.

    `rounds`: as `judged_at` takes them, with prompt_id.
    """
    rows: list[dict[str, Any]] = []
    for slot in range(1, int(rounds.num_draft_tokens.max() if len(rounds) else 0) + 1):
        for kind, judged in judged_at(rounds, slot).items():
            kept = judged & (rounds.accepted >= slot)
            sums = pd.DataFrame({"kept": kept, "judged": judged}).groupby(rounds.prompt_id).sum()
            interval = bootstrap_ratio(sums.kept, sums.judged)
            rows.append({"slot": slot, "kind": kind, **interval.as_dict(), "n": int(judged.sum())})
    return pd.DataFrame(rows, columns=["slot", "kind", "value", "low", "high", "n_prompts", "n"])


def prompt_rows(rounds: Sequence[Round], prompt_ids: Sequence[str]) -> pd.DataFrame:
    """Counts of each prompt: a row per prompt, in their order."""
    by_row: dict[int, list[Round]] = {}
    for item in rounds:
        by_row.setdefault(item.row, []).append(item)
    return pd.DataFrame([{"prompt_id": prompt_ids[row], **asdict(count(some))} for row, some in sorted(by_row.items())])


def round_rows(rounds: Sequence[Round], prompt_ids: Sequence[str]) -> pd.DataFrame:
    """A row per round, with its seconds."""
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
    """A row per token, refused and discarded ones included, with p, q, the draw and readable text.

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
