"""Settings of a decoding: sampling, draft length, limits and seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, get_args

from engine.catalogue import Proposals
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError, did_you_mean


class DraftLength(Protocol):
    """A rule for how many tokens to propose next, from what was accepted so far."""

    def fresh(self) -> DraftLength:
        """The rule as it is before any round; a decoding begins with it."""
        ...

    def next(self) -> int: ...

    def saw(self, accepted: int, examined: int) -> None: ...


@dataclass(frozen=True)
class FixedLength:
    """A draft length that never changes."""

    num_draft_tokens: int

    def fresh(self) -> FixedLength:
        return self

    def next(self) -> int:
        return self.num_draft_tokens

    def saw(self, accepted: int, examined: int) -> None:
        """A fixed gamma learns nothing."""


class AdaptiveLength:
    """The gamma that `choose` favours at the acceptance seen lately, between 1 and `most`.

    `choose` maps an acceptance rate to a gamma (see engine.measure.cost_model.best_gamma). Only past rounds are looked
    at, so the output's distribution is untouched. `memory` is the weight of the past at each round.
    """

    def __init__(self, most: int, choose: Callable[[float], int], memory: float = 0.9) -> None:
        self.most, self.choose, self.memory = most, choose, memory
        self._accepted, self._examined = 1.0, 2.0  # one success in two: an open mind to begin with

    def fresh(self) -> AdaptiveLength:
        return AdaptiveLength(self.most, self.choose, self.memory)

    def next(self) -> int:
        return min(self.most, max(1, self.choose(self._accepted / self._examined)))

    def saw(self, accepted: int, examined: int) -> None:
        self._accepted = self.memory * self._accepted + accepted
        self._examined = self.memory * self._examined + examined


NO_DRAFT = FixedLength(0)  # the draft length of plain decoding
GREEDY = Sampling(0.0)


@dataclass(frozen=True)
class DecodeSettings:
    """The settings that a decoding depends on besides its models and prompts.

    A row ends at `max_new_tokens` or after one of `stop_ids`. `seed` and a row's name decide its random draws. With
    `proposals` 'argmax' the draft proposes its likeliest token at any temperature, as most servers have it: q is
    one-hot there, so x is kept with probability p(x), and what replaces it is drawn from p without x.
    Raises DraftbenchError for `proposals` of another name.
    """

    sampling: Sampling
    length: DraftLength
    max_new_tokens: int
    stop_ids: frozenset[int]
    seed: int = 0
    proposals: Proposals = "sampled"

    def __post_init__(self) -> None:
        if self.proposals not in get_args(Proposals):
            raise DraftbenchError(
                f"unknown proposals {self.proposals!r}",
                "the rule by which a draft proposes decides what its acceptance means",
                did_you_mean(self.proposals, get_args(Proposals)),
            )

    @property
    def draft_sampling(self) -> Sampling:
        """How the draft draws what it proposes: as the target draws, or without drawing."""
        return self.sampling if self.proposals == "sampled" else GREEDY
