"""Serve the draft, or not? One answer from a run's measurement, in the same words wherever a draft is shown.

A draft is served if its whole interval is faster than every way that was timed beside it: our own plain decoding and
Transformers' `generate`, which many would use without us. It gains nothing if one of them is faster by more than the
interval. Everything else is not decided yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.catalogue import servers_by_rate
from engine.measure.predicted_speed import acceptance_for, draft_seconds_for
from engine.measure.speed_words import compared, load_words, timed, verdict
from engine.numbers import LEAST_PROMPTS, has_bounds, interval, is_number, number, too_few
from engine.records.interval import Interval
from engine.records.speed import Speed
from engine.records.summary import Metric, Summary

Answer = Literal["serve it", "no gain", "not decided yet"]
ANSWERS: tuple[Answer, ...] = ("serve it", "no gain", "not decided yet")
_DRAFT_IT = (
    "measure a draft that exists: `draftbench measure-only MODEL --prompts FILE --draft DRAFT`",
    "train one: `draftbench run recipes/from_layers.yaml --set target.model=MODEL --set prompts.train=FILE "
    "--set prompts.heldout=FILE`",
)
_DRAFT_SERVED = (
    "name the model's folder instead of its server, where that is at hand: then a draft can be measured with it",
    "train one from what the server answers: docs/black-box.md",
    "if the server drafts already: `draftbench served probe URL --prompts FILE` reads how many tokens it accepts",
)
_CLEARLY = 1.02  # a gamma that is predicted to gain less over another is none worth naming


@dataclass(frozen=True)
class Decision:
    """The answer, what it rests on, and what would change or decide it: sentences without a full stop."""

    answer: Answer
    reasons: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """'Serve it: 1.42x plain decoding [1.30, 1.55]: faster; ...'"""
        return f"{self.answer[:1].upper()}{self.answer[1:]}: {'; '.join(self.reasons)}"


def answer_of(ratios: Iterable[Interval | None]) -> Answer:
    """The answer to speed-ups over every way that competes; `not decided yet` for none."""
    verdicts = [verdict(ratio) for ratio in ratios]
    if "slower" in verdicts:
        return "no gain"
    return "serve it" if verdicts and all(item == "faster" for item in verdicts) else "not decided yet"


def decide(summary: Summary, metrics: Sequence[Metric] | None = None) -> Decision:
    """Whether a measured draft should be served, on the machine and at the gamma of its measurement.

    `metrics`: the rates, where `summary` comes from the index, which keeps them apart.
    """
    speed = summary.speed
    if summary.subject == "target alone":
        how = _DRAFT_IT if summary.served is None else _DRAFT_SERVED
        return Decision("not decided yet", _without_draft(speed or Speed()), how)
    if speed is None or speed.speedup is None:
        return Decision("not decided yet", _not_timed(summary), _measure_it(summary))
    ratios = [speed.speedup, speed.speedup_over_transformers]  # None counts: what was not timed may be faster
    answer, reasons = answer_of(ratios), [compared(ratio, name) for ratio, name in timed(speed)]
    changes: list[str] = []
    if speed.speedup_over_transformers is None:
        reasons.append("Transformers' own generate was not timed")
        if answer != "no gain":
            changes.append("measure it again: `draftbench measure RUN` times generate too")
    if summary.certificate is None:
        answer = "not decided yet" if answer == "serve it" else answer
        reasons.insert(0, "there is no losslessness certificate")
        changes.insert(0, "measure it again: `draftbench measure RUN` certifies it, too")
    elif not summary.certificate.passed:
        answer = "not decided yet" if answer == "serve it" else answer
        reasons.insert(0, "the losslessness certificate failed")
        changes.insert(0, "find out why the output is not the target's: `draftbench show RUN` lists the checks")
    reasons += _costs(speed)
    if busy := load_words(speed) if speed.load else "":
        reasons.append(busy)
        changes.append("measure it again while nothing else runs here: `draftbench measure RUN`")
    if answer != "serve it":
        changes += [*_narrower(ratios), *_cheaper(speed)]
    changes += _gamma(speed) + _rule(summary, summary.metrics if metrics is None else metrics, speed.temperature)
    return Decision(answer, tuple(reasons), tuple(changes))


def _without_draft(speed: Speed) -> tuple[str, ...]:
    """Why nothing is decided of a target alone, with what a draft would have to beat."""
    names = {"plain": "plain decoding", "transformers": "Transformers' own generate", "served": "the server"}
    rates = [
        f"{name} gives {interval(speed.tokens_per_s[way], 1)} tokens/s"
        for way, name in names.items()
        if way in speed.tokens_per_s
    ]
    return ("no draft was measured", *rates)


def _not_timed(summary: Summary) -> tuple[str, ...]:
    if summary.served:
        return ("measured against a server's text, which has no timing of ours",)
    return ("speed was not timed",)


def _measure_it(summary: Summary) -> tuple[str, ...]:
    if summary.served:
        return ("time it on the server: `draftbench served parity RUN` or `draftbench served predict RUN`",)
    return (f"time it: `draftbench measure RUN --set measure.speed_prompts={2 * LEAST_PROMPTS}`",)


def _costs(speed: Speed) -> list[str]:
    """c, and the acceptance that this gamma needs, by what a round took, beside the one that was measured."""
    cost, gamma = speed.forward_s.round_cost, speed.forward_s.num_draft_tokens
    reasons = [f"c = {number(speed.cost_ratio)}"] if is_number(speed.cost_ratio) else []
    if gamma and is_number(cost) and is_number(speed.alpha):
        needed = acceptance_for(cost, gamma)
        pays = f"pays from an acceptance of {number(needed, 2)}" if is_number(needed) else "pays at no acceptance"
        other = speed.alpha_temperature
        at = f" at temperature {other:g}" if is_number(other) and other != speed.temperature else ""
        reasons.append(f"gamma {gamma} {pays}, measured {number(speed.alpha, 2)} per judged token{at}")
    return reasons


def _narrower(ratios: Sequence[Interval | None]) -> list[str]:
    known = [ratio for ratio in ratios if ratio is not None]
    if any(too_few(ratio.n_prompts) for ratio in known):
        return [f"time at least {LEAST_PROMPTS} prompts (measure.speed_prompts): fewer have no interval to trust"]
    if any(verdict(ratio) == "not clearly faster" for ratio in known):
        return ["an interval holds 1: more prompts (measure.speed_prompts) or an idle machine narrow it"]
    return []


def _cheaper(speed: Speed) -> list[str]:
    """The draft that would pay at the present acceptance."""
    seconds, gamma = speed.forward_s, speed.forward_s.num_draft_tokens
    tokens = next((row.expected_tokens for row in speed.by_gamma if row.gamma == gamma), None)
    times = (seconds.plain_s, seconds.draft_s, seconds.verify_s, seconds.overhead_s)
    if not gamma or tokens is None or not all(map(is_number, (tokens, *times))):
        return []
    longest = draft_seconds_for(tokens, gamma, seconds.plain_s, seconds.verify_s, seconds.overhead_s)
    if longest <= 0:
        return [f"no draft is cheap enough at gamma {gamma}: verifying {gamma + 1} tokens takes longer than they save"]
    if longest >= seconds.draft_s:
        return []
    return [
        f"a cheaper draft (draft.layers, draft.vocabulary): at this acceptance gamma {gamma} pays if a draft forward "
        f"takes at most {number(1000 * longest, 1)} ms, now {number(1000 * seconds.draft_s, 1)} ms"
    ]


def _gamma(speed: Speed) -> list[str]:
    """Another gamma, if the measured times predict more of it than of this one and than of plain decoding."""
    predicted = {row.gamma: row.measured for row in speed.by_gamma if is_number(row.measured)}
    now = predicted.get(speed.forward_s.num_draft_tokens or 0)
    if now is None:
        return []
    best = max(sorted(predicted), key=lambda gamma: predicted[gamma])
    if predicted[best] < max(_CLEARLY * now, 1.0):
        return []
    return [
        f"gamma {best} is predicted to give {number(predicted[best], 2)}x plain decoding, this one {number(now, 2)}x"
    ]


def _rule(summary: Summary, metrics: Sequence[Metric], temperature: float) -> list[str]:
    """Servers that propose by the other rule, where that clearly accepts more. At temperature 0 the rules are one."""
    ours = "argmax" if summary.conditions.proposals == "argmax" else "exact"
    other = "exact" if ours == "argmax" else "argmax"
    rates = {row.metric: row for row in metrics if row.draft == "trained" and row.temperature == temperature}
    if temperature == 0 or not {ours, other} <= set(rates):
        return []
    if not (has_bounds(rates[other]) and has_bounds(rates[ours]) and rates[other].low > rates[ours].high):
        return []
    values = [interval(rates[name]) for name in (other, ours)]
    return [
        f"servers that go by `{other}` ({', '.join(servers_by_rate()[other])}) accept {values[0]} where `{ours}` is "
        f"{values[1]}: `draftbench served predict RUN`"
    ]
