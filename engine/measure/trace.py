"""Traces: rounds of speculative decoding, counted and put into tables.

Every sampled rate comes from the same list of rounds, so the five definitions and what other
systems would print can be compared on one trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine.decode.events import Round
from engine.decode.text import TextStream


@dataclass(frozen=True)
class Counts:
    """Tokens and rounds, added up."""

    rounds: int
    drafted: int
    accepted: int
    rejected: int
    discarded: int
    emitted: int

    def rates(self) -> dict[str, float]:
        """The sampled acceptance rates and tau; nan where nothing was drafted."""
        return {
            "per_proposed": _share(self.accepted, self.drafted),
            "per_examined": _share(self.accepted, self.accepted + self.rejected),
            "per_emitted": _share(self.accepted, self.emitted),
            "tau": _share(self.emitted, self.rounds),
        }

    def as_others_report(self) -> dict[str, float]:
        """What other systems would print for the same trace.

        vLLM's mean acceptance length pools drafts and adds the target's token; SGLang divides
        completion tokens by verify calls, as Spec-Bench's mean accepted tokens does; llama.cpp
        prints accepted over drafted.
        """
        return {
            "vllm_mean_acceptance_length": 1 + _share(self.accepted, self.rounds),
            "vllm_draft_acceptance_rate": _share(self.accepted, self.drafted),
            "sglang_accept_length": _share(self.emitted, self.rounds),
            "spec_bench_mean_accepted_tokens": _share(self.emitted, self.rounds),
            "llama_cpp_accept": _share(self.accepted, self.drafted),
        }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def count(rounds: Iterable[Round]) -> Counts:
    """Add up rounds. The parts of what was drafted are asserted where each round is made."""
    listed = list(rounds)
    return Counts(
        rounds=len(listed),
        drafted=sum(r.drafted for r in listed),
        accepted=sum(r.accepted for r in listed),
        rejected=sum(r.rejected for r in listed),
        discarded=sum(r.discarded for r in listed),
        emitted=sum(len(r.emitted) for r in listed),
    )


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
                "joint": _share(kept, len(open_)),
                "conditional": _share(kept, len(judged)),
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
