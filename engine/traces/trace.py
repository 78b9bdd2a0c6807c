"""A decoded answer, whether it is still being written, was saved, or belongs to a run's measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.decode.counts import Counts, count
from engine.decode.events import Round
from engine.decode.text import text_of

STORED_NAMES = {"target_prob": "p", "draft_prob": "q", "uniform": "u"}  # of a token, in JSON
_DERIVED = {"row", "drafted", "accepted", "rejected", "discarded"}  # of a round: not stored


@dataclass(frozen=True)
class Trace:
    """A whole answer, its rounds with text (see `TextStream.read`).

    `settings` holds what the answer depends on: target, draft, num_draft_tokens, temperature, ... `id` and
    `saved_at` are empty until it is saved.
    """

    id: str
    title: str
    prompt: str
    settings: dict[str, Any]
    rounds: tuple[Round, ...] = ()
    saved_at: str = ""

    @property
    def text(self) -> str:
        """The answer."""
        return text_of(self.rounds)

    @property
    def counts(self) -> Counts:
        """Tokens and rounds added up; `counts.rates()` gives the acceptance rates and tau."""
        return count(self.rounds)

    def as_dict(self) -> dict[str, Any]:
        """The trace as it is stored in JSON."""

        def named(fields: list[tuple[str, Any]]) -> dict[str, Any]:
            return {STORED_NAMES.get(name, name): value for name, value in fields if name not in _DERIVED}

        return asdict(self, dict_factory=named)
