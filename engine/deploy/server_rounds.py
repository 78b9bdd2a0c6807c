"""How each server makes and counts its rounds: what no rate says, and shifts every one of them by a little.

The walk over a text is that of `engine.measure.text_rounds`, whose chances of 0 and 1 give the very counts that the
server will report for that text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.measure.text_rounds import TextRounds, rounds_over


@dataclass(frozen=True)
class ServerRule:
    """The rule of a server. All take the first token of an answer from the pass over the prompt, without a round.

    `stops_at_limit`: proposals never reach beyond the tokens that were asked for, less the target's own one, and a
    round that would propose nothing is not counted. Else every round proposes gamma tokens, and those past the limit
    are counted like others.
    """

    stops_at_limit: bool

    def over(self, chances: Sequence[float], gamma: int, *, limit: int) -> TextRounds:
        """The rounds over one text, of which `chances[t]` is the chance that its token t, if proposed, is kept.

        `limit`: tokens that the server is asked for. The text may be longer for a server that does not stop there, as
        what lies behind decides the fates of proposals that reach it; or shorter, if a token ended it. `emitted` is
        without the first token, and without one that needed no round. Raises ValueError for a gamma or limit below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        text = chances[:limit] if self.stops_at_limit else chances
        walked = rounds_over(text[1:], gamma, limit=limit - 1, proposes_past_limit=not self.stops_at_limit)
        counted = walked.rounds - walked.empty
        return replace(walked, rounds=counted, emitted=walked.emitted - walked.empty, empty=0.0)


_TO_THE_END, _TO_THE_LIMIT = ServerRule(stops_at_limit=False), ServerRule(stops_at_limit=True)
_RULES = {"vllm": _TO_THE_END, "sglang": _TO_THE_END, "tensorrt-llm": _TO_THE_END}


def rule_of(server: str) -> ServerRule:
    """The rule of a server of the catalogue, or of one that is not in it: those stop at the limit, as our loop does."""
    return _RULES.get(server, _TO_THE_LIMIT)


def explains(recount: TextRounds, rounds: int | None, proposed: int, accepted: int) -> bool:
    """Whether a server's counts are those of its own text: `recount` is of that text, with chances of 0 and 1.

    Proposals behind the end of the text may have been kept or not.
    """
    same = proposed == recount.proposed and recount.accepted <= accepted <= recount.accepted + recount.open
    return same and (rounds is None or rounds == recount.rounds)
