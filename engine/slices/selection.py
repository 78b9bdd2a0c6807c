"""The fewest prompts that hold a share of a draft's refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.errors import DraftbenchError

MADE_BY = "draftbench slices"
"""What the description of a focused set begins with."""


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt whose answer was read by the draft: `refusals` is the sum of 1 - sum min(p, q) over `tokens` of it.

    `tokens` counts the tokens of the slice alone where a slice was asked for.
    """

    prompt_id: str
    group: str
    refusals: float
    tokens: int

    @property
    def acceptance(self) -> float:
        """Mean of sum min(p, q); NaN without a token."""
        return 1 - self.refusals / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True)
class Focus:
    """What a focused set is made of, as the JSON file beside it says: `selected` in the order of the set."""

    run: str
    file: str
    worst: float
    by: str | None
    only: str | None
    source: str
    """The run's training prompts, or the file they were taken from."""
    temperature: float
    n_scored: int
    n_selected: int
    refusal_share: float
    token_share: float
    acceptance: float
    """Mean of sum min(p, q) over the tokens of the selected prompts, or those of the slice."""
    acceptance_of_all: float
    removed_as_heldout: int
    sha256: str
    selected: tuple[ScoredPrompt, ...]
    removed_as_too_long: int = 0
    """Prompts of more than the recipe's `prompts.max_prompt_tokens`."""
    bad_rows: int = 0
    """Rows of the prompt files that are no prompts."""

    def document(self) -> dict[str, Any]:
        """The JSON object of it."""
        return {"made_by": MADE_BY, **asdict(self)}


def worst_prompts(scored: Sequence[ScoredPrompt], share: float) -> list[ScoredPrompt]:
    """The fewest prompts that together hold `share` of all refusals, those with most first; ties by id.

    A long answer holds more refusals than a short one that is as hard: it also gives more tokens to learn from, and the
    report says how many. Raises DraftbenchError for a share outside (0, 1], or if nothing was refused.
    """
    check_share(share)
    ranked = sorted((item for item in scored if item.refusals > 0), key=lambda item: (-item.refusals, item.prompt_id))
    sums = np.cumsum([item.refusals for item in ranked])
    if not len(sums):
        raise DraftbenchError(
            "no token of these prompts is refused in this slice",
            "there is nothing to learn from them",
            "choose another slice, or other prompts",
        )
    enough = int(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12)))
    return ranked[: min(enough, len(ranked) - 1) + 1]


def check_share(share: float) -> None:
    """Raise DraftbenchError unless it is a share of the refusals, in (0, 1]."""
    if not 0 < share <= 1:
        raise DraftbenchError(
            f"--worst is {share:g}", "it is a share of the refusals", "give a number above 0 and at most 1, such as 0.6"
        )
