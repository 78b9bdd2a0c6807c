"""The events of decoding: fates, tokens, rounds, and how each fate is marked.

The command line, the measurements, the stored traces and the tests all read these, so they
cannot disagree about what was accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import DraftbenchError


class Fate(StrEnum):
    """The fate of a token."""

    ACCEPTED = "accepted"  # proposed by the draft, kept by the target
    REJECTED = "rejected"  # the first refusal of a round
    DISCARDED = "discarded"  # proposed after a refusal, or after the end of the answer
    CORRECTED = "corrected"  # drawn by the target in place of the refused token
    BONUS = "bonus"  # drawn by the target after a round without refusal


EMITTED = frozenset({Fate.ACCEPTED, Fate.CORRECTED, Fate.BONUS})
PROPOSED = frozenset({Fate.ACCEPTED, Fate.REJECTED, Fate.DISCARDED})


@dataclass(frozen=True)
class Mark:
    """The look of a fate, never by colour alone: each has a second mark besides its tint."""

    tint: str  # Okabe-Ito colour behind the text
    decoration: str  # CSS text-decoration
    faint: bool
    terminal: str  # style of the rich library
    meaning: str


MARKS: dict[Fate, Mark] = {
    Fate.ACCEPTED: Mark("#56B4E9", "none", False, "on #1f4e68", "proposed and accepted"),
    Fate.REJECTED: Mark("#D55E00", "line-through", False, "strike on #7a3600", "the first token rejected in its round"),
    Fate.DISCARDED: Mark("#999999", "line-through", True, "dim strike", "proposed after the rejection, never judged"),
    Fate.CORRECTED: Mark("#E69F00", "underline", False, "underline on #6b4a00", "drawn by the target instead"),
    Fate.BONUS: Mark(
        "#009E73",
        "underline dotted",
        False,
        "bold underline on #00523b",
        "one more from the target, as all were accepted",
    ),
}


@dataclass(frozen=True)
class Alternative:
    """A token one of the models thought likely, with both probabilities. `text`: see `Token`."""

    token_id: int
    target_prob: float
    draft_prob: float
    text: str = ""


@dataclass(frozen=True)
class Token:
    """One token of a round. Probabilities are after temperature, top-k and top-p.

    `position` counts from the first token of the answer. `target_prob` is p(x), `draft_prob`
    q(x), `uniform` the number that decided; None where there is none (a discarded token is
    never judged, a bonus token has no q). `overlap` is sum_v min(p, q) at the position. `text` is
    empty until `TextStream.read` fills it in.
    """

    token_id: int
    fate: Fate
    position: int
    target_prob: float | None = None
    draft_prob: float | None = None
    uniform: float | None = None
    overlap: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    text: str = ""

    @property
    def acceptance_prob(self) -> float | None:
        """min(1, p/q), the probability that the target accepts the token; None if it was not judged."""
        if self.target_prob is None or self.draft_prob is None or self.fate not in (Fate.ACCEPTED, Fate.REJECTED):
            return None
        return min(1.0, self.target_prob / self.draft_prob) if self.draft_prob > 0 else 0.0


@dataclass(frozen=True)
class Round:
    """One proposal of `num_draft_tokens` tokens for one row and the target forward that judged it.

    Seconds are those of the whole batch: rows of a batch share their forwards.
    """

    row: int
    number: int
    num_draft_tokens: int
    tokens: tuple[Token, ...]
    draft_s: float
    verify_s: float
    overhead_s: float
    finish_reason: str | None = None  # "stop" or "length" in the last round of a row
    drafted: int = field(init=False)
    accepted: int = field(init=False)
    rejected: int = field(init=False)
    discarded: int = field(init=False)

    def __post_init__(self) -> None:
        for name, fate in (("accepted", Fate.ACCEPTED), ("rejected", Fate.REJECTED), ("discarded", Fate.DISCARDED)):
            object.__setattr__(self, name, sum(token.fate is fate for token in self.tokens))
        object.__setattr__(self, "drafted", self.num_draft_tokens)
        if self.drafted != self.accepted + self.rejected + self.discarded:
            raise DraftbenchError(
                f"round {self.number} of row {self.row}: {self.drafted} drafted is not {self.accepted} accepted "
                f"+ {self.rejected} rejected + {self.discarded} discarded",
                "the decoding loop lost count of a token: a defect of Draftbench, not of your models",
                "please report it with the command you ran",
            )

    @property
    def seconds(self) -> float:
        """Time spent drafting, verifying and judging; waiting and displaying are not included."""
        return self.draft_s + self.verify_s + self.overhead_s

    @property
    def emitted(self) -> list[int]:
        """Ids this round added to the answer, in order."""
        return [token.token_id for token in self.tokens if token.fate in EMITTED]
