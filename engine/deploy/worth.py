"""Is a draft worth it on a server? One sentence from what was measured, with what would change the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.measure.cost_model import break_even_alpha
from engine.measure.decision import Answer, answer_of
from engine.measure.predicted_speed import GammaChoice, GammaSpeed, acceptance_for, draft_seconds_for
from engine.measure.speed_words import verdict
from engine.numbers import LEAST_PROMPTS, interval, is_number, number, times
from engine.records.interval import Interval


@dataclass(frozen=True)
class StepCosts:
    """What one forward of each kind takes at one gamma, in seconds; medians of one machine."""

    gamma: int
    plain_s: float
    """A plain step, everything included."""
    draft_s: float
    """One forward of the draft."""
    verify_s: float
    overhead_s: float
    target_s: float
    """The target's forward of a plain step: what c is a ratio to."""

    @property
    def cost_ratio(self) -> float:
        """c: one draft forward over one target forward of a single token."""
        return self.draft_s / self.target_s


@dataclass(frozen=True)
class Worth:
    """The answer and what it rests on."""

    answer: Answer
    sentence: str
    speedup: Interval
    """Predicted over plain decoding."""
    tokens: Interval
    """Predicted tokens per round."""
    cost: Interval
    """A round over a plain step: the tokens per round from which it pays."""
    cost_ratio: float
    """c."""
    acceptance: float
    """The acceptance, the same at every place, that gives the predicted tokens per round."""
    break_even: float
    """The acceptance, the same at every place, from which this gamma pays; infinity where none is enough."""
    formula_break_even: float
    """The same by the formula of Leviathan et al., which takes a verification for as long as a plain step."""


def worth_it(costs: StepCosts, choice: GammaChoice, *, asked: int | None = None, spread_of_times: bool = True) -> Worth:
    """Whether proposing `costs.gamma` tokens pays. Raises KeyError if `choice` does not have this gamma.

    `asked`: the gamma that was asked for, if it is another one that was not timed. `spread_of_times`: whether the
    interval holds that of the times too.
    """
    gamma = costs.gamma
    speed = choice.at(gamma)
    now, needed = acceptance_for(speed.tokens.value, gamma), acceptance_for(speed.cost.value, gamma)
    answer = answer_of([speed.speedup])
    untimed = "" if asked in (None, gamma) else f" (gamma {asked} was not timed)"
    words = (
        f"{answer[:1].upper()}{answer[1:]} at gamma {gamma}{untimed}: {times(speed.speedup, 'plain decoding')} "
        f"predicted; a round gives {interval(speed.tokens, 2)} tokens and costs {number(speed.cost.value, 2)} plain "
        f"steps (c = {number(costs.cost_ratio)}, pays from an acceptance of {_acceptance(needed)}, these rounds have "
        f"{_acceptance(now)})"
    )
    advice = _advice(costs, choice, needed)
    if not spread_of_times:
        advice = [*advice, "the interval is that of the acceptance alone, as the times have none"]
    sentence = ". ".join([words, *(part[:1].upper() + part[1:] for part in advice)]) + "."
    return Worth(
        answer,
        sentence,
        speed.speedup,
        speed.tokens,
        speed.cost,
        costs.cost_ratio,
        now,
        needed,
        break_even_alpha(costs.cost_ratio, gamma),
    )


def _acceptance(value: float) -> str:
    return number(value, 2) if is_number(value) else "none"


def _advice(costs: StepCosts, choice: GammaChoice, needed: float) -> list[str]:
    """What would change the answer, or decide it; what is better still where it pays."""
    speed, other = choice.at(costs.gamma), _better_gamma(costs.gamma, choice)
    better = _other_gamma(other, speed) if other else ""
    decided = verdict(speed.speedup)
    if decided == "faster":
        return [better] if better else []
    if speed.speedup.n_prompts < LEAST_PROMPTS:
        return [f"measure on at least {LEAST_PROMPTS} prompts: intervals of fewer hold less than they say"]
    if decided == "not clearly faster":
        narrower = "the interval holds 1: more held-out prompts or an idle machine narrow it"
        cheaper = _cheaper(costs, speed.tokens.value, needed) if speed.speedup.value < 1 else ""
        return [narrower, *filter(None, (better, cheaper))]
    return [*([better] if better else []), _cheaper(costs, speed.tokens.value, needed)]


def _other_gamma(other: GammaSpeed, speed: GammaSpeed) -> str:
    """What another gamma is predicted to give; it may be the smaller of two that are not told apart."""
    if other.speedup.value <= speed.speedup.value:
        return f"gamma {other.gamma}, which proposes less, is not told apart from it: {times(other.speedup)} predicted"
    return f"gamma {other.gamma} is predicted to give {times(other.speedup)}: {answer_of([other.speedup])}"


def _better_gamma(gamma: int, choice: GammaChoice) -> GammaSpeed | None:
    """The best gamma if it is another one that drafts, else the other gamma with the largest predicted speed-up."""
    if choice.best == gamma:
        return None
    if choice.best:
        return choice.at(choice.best)
    largest = max(choice.by_gamma, key=lambda speed: speed.speedup.value)
    return largest if largest.gamma != gamma and largest.speedup.value > choice.at(gamma).speedup.value else None


def _cheaper(costs: StepCosts, tokens: float, needed: float) -> str:
    """Which acceptance or which draft would make it pay."""
    gamma = costs.gamma
    longest = draft_seconds_for(tokens, gamma, costs.plain_s, costs.verify_s, costs.overhead_s)
    if math.isinf(needed):
        accepted = f"no acceptance is enough at gamma {gamma}"
    else:
        accepted = f"it would pay from an acceptance of {number(needed, 2)} on"
    if longest > 0:
        ratio = number(longest / costs.target_s)
        return f"{accepted}, or with a draft forward of at most {_ms(longest)} (c = {ratio}), now {_ms(costs.draft_s)}"
    return f"{accepted}; no draft is cheap enough, since verifying {gamma + 1} tokens alone takes longer than they save"


def _ms(seconds: float) -> str:
    return f"{number(1000 * seconds, 1)} ms"
