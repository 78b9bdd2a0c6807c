"""The measured rates: what each is called, means and is a ratio of; and what other systems call theirs.

The one table that measurements, comparisons, pages and reports read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The acceptance rule of rates that were estimated from a served model's text: never set beside those with all of p.
SERVED_TEXT = "served text: mean of min(1, q(x)/p(x)) over the tokens x that the server drew, p(x) as it tells it"

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Rate:
    """A ratio of sums over prompts. `numerator`, `denominator`: columns of `measure/prompts.parquet`, added up."""

    title: str
    formula: str  # for people
    note: str  # what to know before comparing
    numerator: str
    denominator: tuple[str, ...]
    better: Better = "higher"  # which direction of it is better

    @property
    def definition(self) -> str:
        """Formula and note as one sentence each."""
        return f"{self.formula[:1].upper()}{self.formula[1:]}. {self.note}"

    @property
    def per_forward(self) -> bool:
        """Whether it counts tokens for each target forward: a length then, and no share of tokens."""
        return self.denominator == ("rounds",)


@dataclass(frozen=True)
class Printed:
    """A number that another system prints, as it can be had from a trace."""

    system: str
    name: str
    formula: str

    @property
    def title(self) -> str:
        return f"{self.system}: {self.name}"


RATES: dict[str, Rate] = {
    "exact": Rate(
        "Exact acceptance",
        "mean of Σ min(p, q) over the positions of the target's own text",
        "Nothing is drawn: the least noise, the rate for comparing drafts.",
        "exact_sum",
        ("n_positions",),
    ),
    "argmax": Rate(
        "Argmax acceptance",
        "mean of p(argmax q) over the positions of the target's own text",
        "What a server accepts that proposes the draft's likeliest token at any temperature; exact is for one that "
        "draws it. Equal to exact acceptance at temperature 0.",
        "argmax_sum",
        ("n_positions",),
    ),
    "greedy_agreement": Rate(
        "Greedy agreement",
        "share of positions of the target's text where the target's choice = argmax q",
        "Equals exact acceptance at temperature 0, where the target's choice is the token it wrote; else argmax p.",
        "agree_sum",
        ("n_positions",),
    ),
    "per_proposed": Rate(
        "Acceptance per proposed token",
        "accepted / proposed tokens",
        "Falls as gamma grows: discarded tokens count as if refused.",
        "accepted",
        ("drafted",),
    ),
    "per_examined": Rate(
        "Acceptance per examined token",
        "accepted / (accepted + first refused) tokens",
        "The alpha of the papers; free of gamma if tokens are independent.",
        "accepted",
        ("accepted", "rejected"),
    ),
    "per_emitted": Rate(
        "Acceptance per emitted token",
        "accepted / emitted tokens",
        "The share of the answer that the draft wrote.",
        "accepted",
        ("emitted",),
    ),
    "tau": Rate(
        "Tokens per target forward (tau)",
        "emitted tokens / target forwards",
        "Not a rate but a length, the corrected or bonus token included: what the speed-up starts from.",
        "emitted",
        ("rounds",),
    ),
}

# Keys of `Counts.as_others_report`.
OTHERS: dict[str, Printed] = {
    "vllm_mean_acceptance_length": Printed("vLLM", "mean acceptance length", "1 + accepted / rounds that proposed"),
    "vllm_draft_acceptance_rate": Printed("vLLM", "draft acceptance rate", "accepted / proposed"),
    "sglang_accept_length": Printed("SGLang", "accept length", "emitted tokens / verify calls"),
    "spec_bench_mean_accepted_tokens": Printed(
        "Spec-Bench", "mean accepted tokens", "emitted tokens / target forwards"
    ),
    "llama_cpp_accept": Printed("llama.cpp", "accept", "accepted / proposed"),
}
