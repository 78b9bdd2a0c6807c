"""From a server's answers and what was predicted of them to one row of a report, with its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.capture.answered import AnsweredPrompt
from engine.catalogue import Proposals
from engine.deploy.parity_bench import totals_of
from engine.deploy.parity_texts import Walk, drawn_from_target, hits, parted
from engine.deploy.server_rounds import explains
from engine.deploy.serving import ServedAnswer
from engine.measure.statistics import ALARM_Z, bootstrap_ratio, paired_difference, paired_ratio
from engine.measure.text_rounds import TextRounds, for_other_texts
from engine.models.draft import Draft
from engine.models.load import LoadedModel
from engine.numbers import has_bounds, interval
from engine.records.interval import Interval
from engine.records.parity import ParityReport, ParityRow, PartedText
from engine.records.served import RoundTotals, ServedMeasurement


@dataclass(frozen=True)
class Case:
    """One temperature and rule of proposing: the captured answers, and the rounds predicted for them, in one order."""

    temperature: float
    proposals: Proposals
    answers: list[AnsweredPrompt]
    rounds: list[TextRounds]

    def answered(
        self, served: Sequence[ServedAnswer]
    ) -> tuple[list[AnsweredPrompt], list[TextRounds], list[ServedAnswer]]:
        """The captured answers, predictions and served answers of the prompts that were answered, in one order."""
        by_id = {answer.prompt_id: answer for answer in served if answer.temperature == self.temperature}
        kept = [i for i, answer in enumerate(self.answers) if answer.prompt_id in by_id]
        answers = [self.answers[i] for i in kept]
        return answers, [self.rounds[i] for i in kept], [by_id[answer.prompt_id] for answer in answers]


def parity_row(
    case: Case, served: Sequence[ServedAnswer], walk: Walk, draft: Draft, target_float32: LoadedModel
) -> ParityRow:
    """Compare what a server counted with what was predicted. `draft` computes in float32, as the target does."""
    captured, expected, answers = case.answered(served)
    totals = [totals_of(answer, walk.gamma) for answer in answers]
    row = _rates(case, expected, totals, walk.gamma)
    if case.proposals == "argmax":
        row |= _recount(captured, answers, totals, walk, draft, target_float32.vocab_rows)
    if case.temperature == 0:
        row |= _same_text(captured, answers, walk.limit, target_float32)
    else:
        texts = [(answer.prompt_ids, one.token_ids) for answer, one in zip(captured, answers, strict=True)]
        row["calibration_z"] = drawn_from_target(target_float32, texts, case.temperature)
    made = ParityRow(temperature=case.temperature, proposals=case.proposals, prompts=len(answers), **row)
    known = has_bounds(made.predicted) and not math.isnan(made.served.value)
    inside = made.predicted.low <= made.served.value <= made.predicted.high if known else None
    return made.model_copy(update={"agrees": inside, "verdict": verdict(made, inside=inside)})


def _rates(case: Case, expected: Sequence[TextRounds], totals: Sequence[RoundTotals], gamma: int) -> dict[str, Any]:
    proposed, accepted = [one.proposed for one in expected], [one.accepted for one in expected]
    rounds = [one.rounds for one in expected]
    served_proposed, served_accepted = [t.proposed or 0 for t in totals], [t.accepted or 0 for t in totals]
    served_rounds = [t.rounds or 0 for t in totals]

    def of_texts(value: Interval, most: float = 1.0) -> Interval:
        return value if case.temperature == 0 else for_other_texts(value, most=most)

    return {
        "predicted": of_texts(bootstrap_ratio(accepted, proposed)),
        "served": bootstrap_ratio(served_accepted, served_proposed),
        "difference": paired_difference(accepted, proposed, served_accepted, served_proposed),
        "predicted_at": [
            of_texts(bootstrap_ratio([one.accepted_at[place] for one in expected], rounds)) for place in range(gamma)
        ],
        "served_at": [
            bootstrap_ratio([(t.accepted_at or [0] * gamma)[place] for t in totals], served_rounds)
            for place in range(gamma)
        ],
        "predicted_tokens_per_round": of_texts(
            bootstrap_ratio([one.rounds + one.accepted for one in expected], rounds), most=gamma + 1.0
        ),
        "served_tokens_per_round": bootstrap_ratio(
            [r + a for r, a in zip(served_rounds, served_accepted, strict=True)], served_rounds
        ),
    }


def _recount(
    captured: Sequence[AnsweredPrompt],
    answers: Sequence[ServedAnswer],
    totals: Sequence[RoundTotals],
    walk: Walk,
    draft: Draft,
    vocab_rows: int,
) -> dict[str, Any]:
    """Our draft on the texts that the server wrote."""
    walks = [
        walk.over(hits(draft, one.prompt_ids, answer.token_ids, vocab_rows))
        for one, answer in zip(captured, answers, strict=True)
    ]
    same = [
        explains(own, total.rounds, total.proposed or 0, total.accepted or 0)
        for own, total in zip(walks, totals, strict=True)
    ]
    proposed = sum(own.proposed for own in walks)
    return {
        "recounted": sum(own.accepted for own in walks) / proposed if proposed else math.nan,
        "explained": sum(same),
    }


def _same_text(
    captured: Sequence[AnsweredPrompt], answers: Sequence[ServedAnswer], limit: int, target_float32: LoadedModel
) -> dict[str, Any]:
    texts: list[PartedText | None] = [
        parted(target_float32, one.prompt_id, one.prompt_ids, one.token_ids[:limit], answer.token_ids[:limit])
        for one, answer in zip(captured, answers, strict=True)
    ]
    return {"same_text": sum(text is None for text in texts), "parted": [text for text in texts if text is not None]}


def with_speed(
    row: ParityRow, drafted: Sequence[ServedAnswer], plain: Sequence[ServedAnswer], round_cost: float
) -> ParityRow:
    """The row with the served speed, where its temperature was timed with and without the draft.

    `round_cost`: plain steps that a round takes here, from which a speed-up is predicted; NaN if not known.
    """
    with_draft, without = (
        {answer.prompt_id: answer for answer in answers if _is_timed(answer, row.temperature)}
        for answers in (drafted, plain)
    )
    both = [name for name in with_draft if name in without]
    if not both:
        return row
    seconds, plain_s = [with_draft[n].seconds or 0 for n in both], [without[n].seconds or 0 for n in both]
    tokens, plain_tokens = [_later(with_draft[n]) for n in both], [_later(without[n]) for n in both]
    return row.model_copy(
        update={
            "tokens_per_s": bootstrap_ratio(tokens, seconds),
            "plain_tokens_per_s": bootstrap_ratio(plain_tokens, plain_s),
            "speedup": paired_ratio(seconds, tokens, plain_s, plain_tokens),
            "predicted_speedup": row.predicted_tokens_per_round.value / round_cost,
        }
    )


def _is_timed(answer: ServedAnswer, temperature: float) -> bool:
    return answer.temperature == temperature and answer.seconds is not None and _later(answer) > 0


def _later(answer: ServedAnswer) -> int:
    """Tokens after the first, which comes with the prompt: those that the seconds are of."""
    return max(0, len(answer.token_ids) - 1)


def verdict(row: ParityRow, *, inside: bool | None) -> str:
    """What the row says, with the cause where figures part. `inside`: None without an interval to be inside of."""
    if inside is None:
        return "too few prompts for an interval"
    parts = [f"{'inside' if inside else 'outside'} the predicted interval"]
    if row.explained is not None:
        parts.append(
            f"{row.explained} of {row.prompts} answers are counted as our draft counts them on the server's text"
        )
    if row.same_text is not None:
        largest = max((text.largest for text in row.parted), default=0.0)
        parts.append(
            f"{row.same_text} of {row.prompts} greedy texts are the captured ones"
            + (f", the others part at tokens at most {largest:.3f} logits below the likeliest" if row.parted else "")
        )
    if abs(row.calibration_z) >= ALARM_Z:
        parts.append(
            f"the server's text is not drawn from the target's distribution (z = {row.calibration_z:+.1f}): other "
            "sampling settings, other weights, or a fault of the server"
        )
    elif not math.isnan(row.calibration_z):
        parts.append(f"the text is drawn as the target's probabilities say (z = {row.calibration_z:+.1f})")
    if not inside:
        gap = f"served less predicted, by prompt: {interval(row.difference)}"
        parts.append(gap)
    return "; ".join(parts)


def served_measurement(
    report: ParityReport, row: ParityRow, case: Case, served: Sequence[ServedAnswer]
) -> ServedMeasurement:
    """A row as the record in which all figures of servers are kept."""
    per_request = [totals_of(answer, report.num_draft_tokens) for answer in case.answered(served)[2]]
    places = zip(*((one.accepted_at or []) for one in per_request), strict=True)
    return ServedMeasurement(
        server=report.server,
        version=report.version,
        source="a server that draftbench started, asked for the held-out prompts",
        recorded_at=report.recorded_at,
        temperature=row.temperature,
        num_draft_tokens=report.num_draft_tokens,
        proposals=row.proposals,
        totals=RoundTotals(
            requests=len(per_request),
            rounds=sum(one.rounds or 0 for one in per_request),
            proposed=sum(one.proposed or 0 for one in per_request),
            accepted=sum(one.accepted or 0 for one in per_request),
            accepted_at=[sum(place) for place in places],
            emitted=sum(one.emitted or 0 for one in per_request),
        ),
        per_request=per_request,
        tokens_per_s=row.tokens_per_s,
        plain_tokens_per_s=row.plain_tokens_per_s,
        concurrency=1,
        notes=list(report.notes),
    )
