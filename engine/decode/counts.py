"""Rounds of speculative decoding, added up, and the rates that follow from the sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.decode.events import Round


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
            "per_proposed": share_of(self.accepted, self.drafted),
            "per_examined": share_of(self.accepted, self.accepted + self.rejected),
            "per_emitted": share_of(self.accepted, self.emitted),
            "tau": share_of(self.emitted, self.rounds),
        }

    def as_others_report(self, empty: int = 0) -> dict[str, float]:
        """The figures that other systems would print for the same trace, `empty` of whose rounds proposed nothing.

        vLLM's mean acceptance length pools drafts, of which such a round is none, and adds the
        target's token; SGLang divides completion tokens by verify calls, as Spec-Bench's mean
        accepted tokens does; llama.cpp prints accepted over drafted.
        """
        return {
            "vllm_mean_acceptance_length": 1 + share_of(self.accepted, self.rounds - empty),
            "vllm_draft_acceptance_rate": share_of(self.accepted, self.drafted),
            "sglang_accept_length": share_of(self.emitted, self.rounds),
            "spec_bench_mean_accepted_tokens": share_of(self.emitted, self.rounds),
            "llama_cpp_accept": share_of(self.accepted, self.drafted),
        }


def share_of(part: float, whole: float) -> float:
    """part / whole; nan where there is no whole."""
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
