"""The rounds that speculative decoding makes over a text of the target's: what a server will count, before it starts.

Given the text, nothing need be decoded. A draft that proposes its likeliest token is accepted exactly where that token
stands in the text, at any temperature: every fate follows. Of a draft that draws its proposals the chance follows: the
token x of the text was accepted, where it was judged, with probability min(1, q(x) / p(x)) (see the replayed stream of
`engine.distill.modes.online`), so each count has an expectation along the text.

What the loop does (`engine.decode.speculative`), and so what is counted here:

- A round proposes gamma tokens, whatever the text still has: the draft does not know that a stop token comes. Near the
  limit of tokens it proposes fewer, as the last of an answer is the target's own: min(gamma, limit - emitted - 1).
- Accepted are the tokens before the first refusal; then comes one of the target's own, corrected or bonus.
- Where a stop token is accepted, the answer ends: no token of the target's own follows, and what was proposed behind
  it counts as proposed and not as accepted.

An answer shorter than the limit has so ended by itself. Servers differ at the two ends
(`engine.deploy.server_rounds`). Some count tokens as accepted that stand behind the end of the answer and are never
sent (at most gamma of an answer); these a text cannot know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.catalogue import Proposals
from engine.errors import DraftbenchError
from engine.measure.acceptance import PromptAcceptance
from engine.measure.statistics import bootstrap_ratio
from engine.records.interval import Interval


@dataclass(frozen=True)
class TextRounds:
    """The rounds over one text: whole numbers where every fate is certain, else expectations.

    `accepted_at[i]`: rounds in which the proposed token i, from 0, was accepted. `emitted`: tokens of the text up to
    the limit. `empty`: of the rounds those that propose nothing, as only one more token is wanted. `open`: of the
    proposed tokens those behind the end of the text, which does not tell their fate; they count as not accepted.
    """

    rounds: float
    proposed: float
    accepted: float
    accepted_at: tuple[float, ...]
    emitted: float
    empty: float = 0.0
    open: float = 0.0


def rounds_over(
    chances: Sequence[float], gamma: int, *, limit: int | None, proposes_past_limit: bool = False
) -> TextRounds:
    """Walk over a text. `chances[t]`: how likely token t was the draft's and accepted, if it was judged; 0 to 1.

    `limit`: the most tokens that the answer could have had; None for a loop that proposes gamma to the very end. With
    `proposes_past_limit` so does one with a limit, and the text may be longer: what lies behind the limit decides the
    proposals that reach there. Raises ValueError if gamma is not positive, the limit negative, or the text too long.
    """
    count = len(chances)
    if gamma < 1 or (limit is not None and limit < 0):
        raise ValueError(f"gamma must be at least 1 and the limit not negative, got {gamma} and {limit}")
    if limit is not None and count > limit and not proposes_past_limit:
        raise ValueError(f"a text of {count} tokens is longer than the limit of {limit}")
    emitted = count if limit is None else min(count, limit)
    begins = [0.0] * (count + 2)  # the chance that a round begins at a token; one behind the text is none
    begins[0] = 1.0
    rounds = proposed = empty = unknown = 0.0
    accepted_at = [0.0] * gamma
    for start in range(emitted):
        alive = begins[start]
        if not alive:
            continue
        width = gamma if limit is None or proposes_past_limit else min(gamma, limit - start - 1)
        rounds, proposed = rounds + alive, proposed + alive * width
        empty += 0.0 if width else alive
        for place in range(start, min(start + width, count)):
            begins[place + 1] += alive * (1 - chances[place])  # the corrected token stands at the place itself
            alive *= chances[place]
            accepted_at[place - start] += alive
        if start + width < count:
            begins[start + width + 1] += alive  # behind the bonus token
        else:
            unknown += alive * (start + width - count)
    return TextRounds(rounds, proposed, math.fsum(accepted_at), tuple(accepted_at), emitted, empty, unknown)


def predicted_rounds(
    text: pd.DataFrame | Iterable[PromptAcceptance], gamma: int, proposals: Proposals, *, limit: int | None
) -> dict[str, TextRounds]:
    """The rounds of each prompt, by prompt id, over the target's own text.

    `text`: exact acceptance (`engine.measure.acceptance`), or the rows of one draft at one temperature of
    `measure/positions.parquet`. `limit`: as in `rounds_over`; the loop's is `measure.max_new_tokens`. Raises
    DraftbenchError where the table cannot say it: it is of an earlier version, or not of every token of the answers.
    """
    chances = acceptance_chances(text, proposals)
    return {prompt_id: rounds_over(values, gamma, limit=limit) for prompt_id, values in chances.items()}


def acceptance_chances(text: pd.DataFrame | Iterable[PromptAcceptance], proposals: Proposals) -> dict[str, list[float]]:
    """By prompt id, how likely each token of the answer was the draft's and accepted, if it was judged.

    `text` and errors as in `predicted_rounds`.
    """
    return _of_table(text, proposals) if isinstance(text, pd.DataFrame) else _of_results(text, proposals)


def _of_results(results: Iterable[PromptAcceptance], proposals: Proposals) -> dict[str, list[float]]:
    by_id: dict[str, list[float]] = {}
    for result in results:
        _refuse_gaps(result.prompt_id, result.positions or range(len(result.token_ids)))
        p, q = result.target_prob.double().numpy(), result.draft_prob.double().numpy()
        by_id[result.prompt_id] = result.hit.double().tolist() if proposals == "argmax" else _kept(p, q)
    return by_id


def _of_table(table: pd.DataFrame, proposals: Proposals) -> dict[str, list[float]]:
    for column in ("draft", "temperature"):
        if column in table and table[column].nunique() > 1:
            raise ValueError(f"the rows are of more than one {column}: {sorted(table[column].unique())}")
    if proposals == "argmax" and ("hit" not in table or table.hit.isna().any()):
        raise DraftbenchError(
            "this run's positions do not say where the draft's likeliest token stands in the text",
            "an earlier version measured it",
            "measure it again: draftbench measure RUN",
        )
    by_id = {}
    for prompt_id, rows in table.sort_values(["prompt_id", "position"]).groupby("prompt_id", sort=False):
        _refuse_gaps(str(prompt_id), rows.position)
        p, q = rows.p.to_numpy(float), rows.q.to_numpy(float)
        by_id[str(prompt_id)] = rows.hit.to_numpy(float).tolist() if proposals == "argmax" else _kept(p, q)
    return by_id


def _refuse_gaps(prompt_id: str, positions: Iterable[int]) -> None:
    if any(position != place for place, position in enumerate(positions)):
        raise DraftbenchError(
            f"not every token of the answer to {prompt_id} was measured",
            "a round ends at the first refusal, so each token must be known (of a server's text some are not)",
            "predict from a measurement against a model: `draftbench measure RUN --set measure.against=model`",
        )


def _kept(p: np.ndarray, q: np.ndarray) -> list[float]:
    """min(1, q / p) at each token; where p was rounded to nothing, 1 if q was not."""
    chances: list[float] = np.where(q >= p, (q > 0).astype(float), q / np.where(p > 0, p, 1)).tolist()
    return chances


# ---- rates --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictedRates:
    """What the rounds of some prompts come to, with intervals over the prompts."""

    per_proposed: Interval  # accepted / proposed
    accepted_at: tuple[Interval, ...]  # by place, from 0: share of rounds in which this token was accepted
    accepted_per_round: Interval
    tau: Interval  # emitted / rounds

    @property
    def tokens_per_round(self) -> Interval:
        """1 + accepted / rounds, as servers count; tau is less, since an answer may end within a round."""
        one = self.accepted_per_round
        return Interval(1 + one.value, 1 + one.low, 1 + one.high, one.n_prompts)


def predicted_rates(rounds: Iterable[TextRounds]) -> PredictedRates:
    """The rates of some prompts' rounds. Raises ValueError if there are none, or they are of different gammas."""
    texts = list(rounds)
    if not texts or len({len(text.accepted_at) for text in texts}) > 1:
        raise ValueError("rates need the rounds of one gamma over at least one text")
    by_round, accepted = [text.rounds for text in texts], [text.accepted for text in texts]
    return PredictedRates(
        bootstrap_ratio(accepted, [text.proposed for text in texts]),
        tuple(bootstrap_ratio(at, by_round) for at in zip(*(text.accepted_at for text in texts), strict=True)),
        bootstrap_ratio(accepted, by_round),
        bootstrap_ratio([text.emitted for text in texts], by_round),
    )


def for_other_texts(interval: Interval, prompts: int | None = None, *, most: float = 1.0) -> Interval:
    """The interval in which the same rate of other texts of this target should lie, of `prompts` prompts.

    An interval says where the rate over all texts lies. Another measurement, such as that of a server that draws its
    answers anew, strays about that rate as well, so the two differ by sqrt(1 + n / m) times as much, n and m their
    prompts (as many by default). For the same prompts that is a little too wide. `most`: the largest rate there is.
    At temperature 0, where a server writes the same texts, the rate itself is expected.
    """
    others = interval.n_prompts if prompts is None else prompts
    if not (others and interval.n_prompts):
        return Interval(interval.value, math.nan, math.nan, interval.n_prompts)
    if math.isnan(interval.low) or math.isnan(interval.high):
        return interval
    wider = math.sqrt(1 + interval.n_prompts / others)
    low, high = (interval.value + wider * (end - interval.value) for end in (interval.low, interval.high))
    return Interval(interval.value, max(0.0, low), min(most, high), interval.n_prompts)
