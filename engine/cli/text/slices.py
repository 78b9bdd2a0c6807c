"""Slices of a run, alone or against another, and a focused training set, as text. `--json` prints the same in full."""

from __future__ import annotations

import math
from shlex import quote

from engine.cli.text import console
from engine.measure.compare import remedy
from engine.measure.definitions import RATES
from engine.measure.interval_words import trusted
from engine.numbers import LEAST_PROMPTS, MISSING, interval, number, share
from engine.records.interval import Interval
from engine.slices.of_run import SlicedRuns
from engine.slices.selection import Focus
from engine.slices.slices import FEW_PROMPTS, FEW_TOKENS, Sliced
from engine.slices.tokens import BY

_MOST_ROWS = 30
_FEW = "few"
_UNITS = {("rounds",): "target forwards", ("drafted",): "proposed tokens", ("accepted", "rejected"): "judged tokens"}


def slices(result: SlicedRuns) -> None:
    """Print the slices of a run, or the changes of a second one."""
    shown = result.sliced
    console.line(f"{result.a}: {shown.metric} by {BY[shown.by].split(':')[0]}, T = {shown.temperature:g}")
    if result.b is None:
        _alone(shown)
    else:
        _paired(result)
    changes = [row.difference for row in result.differences]
    if any(math.isnan(trusted(one).low) for one in (changes or [item.rate for item in shown.slices])):
        console.paragraph(f"Fewer than {LEAST_PROMPTS} prompts are too few for an interval.")
    for note in result.notes:
        console.paragraph(f"note: {note}")


def _alone(shown: Sliced) -> None:
    lost = "forwards" if RATES[shown.metric].per_forward else "refusals"
    rows = [
        [item.name, interval(trusted(item.rate)), item.n_tokens, item.n_prompts, share(item.token_share),
         share(item.refusal_share), _gain(trusted(item.gain)), _mark(shown.by, item.few)]
        for item in shown.slices[:_MOST_ROWS]
    ]  # fmt: skip
    columns = [shown.by, f"{shown.metric} [95%]", "n", "prompts", "of all n", f"of {lost}", "if like the rest", ""]
    console.table("", columns, rows)
    if len(shown.slices) > _MOST_ROWS:
        console.line(f"... and {len(shown.slices) - _MOST_ROWS} more, with `--json`")
    overall, unit = interval(trusted(shown.overall)), _UNITS.get(RATES[shown.metric].denominator, "tokens")
    console.line(f"all: {overall}, {shown.n_tokens:,} {unit} of {shown.overall.n_prompts} prompts")
    if sentence := _best_chance(shown):
        console.paragraph(sentence)
    few = any(item.few for item in shown.slices) and shown.by != "prompt"
    marked = f" {_FEW}: fewer than {FEW_PROMPTS} prompts or {FEW_TOKENS} tokens, too little to conclude from." * few
    console.paragraph(
        f"'of {lost}': what the slice holds of all {lost}, by which the list is sorted. 'if like the rest': the change "
        f"of the whole {shown.metric} if the slice were as good as the rest of the text.{marked}"
    )


def _best_chance(shown: Sliced) -> str:
    """The counterfactual of the slice that holds back the whole most, in one sentence; "" if none does for certain."""
    held = [item for item in shown.slices if not item.few and _known(trusted(item.gain)) and item.gain.low > 0]
    if not held:
        return ""
    worst = max(held, key=lambda item: item.gain.value)
    would_be = shown.overall.value + worst.gain.value
    return (
        f"most to gain: {worst.name}. If it were as good as the rest, {shown.metric} would be {number(would_be)} "
        f"instead of {number(shown.overall.value)}."
    )


def _paired(result: SlicedRuns) -> None:
    shown, other = result.sliced, result.sliced_b
    assert other is not None  # made together with b
    console.line(f"A = {result.a}\nB = {result.b}")
    if result.blocked_by:
        differing = "; ".join(f"{key} is {x} in A and {y} in B" for key, (x, y) in result.blocked_by.items())
        console.paragraph(f"not comparable: {differing}. {remedy(result.blocked_by)}")
        return
    on_text = "the same target text" if math.isfinite(_first_share(result)) else "each draft's own answers"
    console.line(f"B - A with 95% intervals, paired on {result.n_paired} prompts with the same answer, on {on_text}")
    rows = [
        [item.name, number(item.a), number(item.b), interval(trusted(item.difference)), item.n_tokens, item.n_prompts,
         share(item.share_of_change), _mark(shown.by, item.few)]
        for item in result.differences[:_MOST_ROWS]
    ]  # fmt: skip
    console.table("", [shown.by, "A", "B", "B - A", "n", "prompts", "of the change", ""], rows)
    if len(result.differences) > _MOST_ROWS:
        console.line(f"... and {len(result.differences) - _MOST_ROWS} more, with `--json`")
    console.line(f"all: A {interval(trusted(shown.overall))}, B {interval(trusted(other.overall))}")


def _first_share(result: SlicedRuns) -> float:
    return result.differences[0].share_of_change if result.differences else math.nan


def focused(made: Focus) -> None:
    """Print what a focused set holds, and the command that trains on it."""
    where, of_what = (f" in {made.by} {made.only}", "its tokens") if made.by else ("", "the tokens")
    console.line(f"wrote {made.file}: {made.n_selected} of {made.n_scored} prompts")
    console.paragraph(
        f"these {made.n_selected} prompts hold {share(made.refusal_share)} of the refusals{where} and "
        f"{share(made.token_share)} of {of_what}; exact is {number(made.acceptance)} on them and "
        f"{number(made.acceptance_of_all)} on all (T = {made.temperature:g}, the target's own answers to {made.source})"
    )
    if made.removed_as_heldout:
        console.paragraph(f"{made.removed_as_heldout} training prompts that repeat held-out ones were left out")
    if made.removed_as_too_long:
        console.paragraph(f"left out as longer than prompts.max_prompt_tokens: {made.removed_as_too_long:,} prompts")
    if made.bad_rows:
        console.paragraph(f"left out as no prompts: {made.bad_rows:,} rows of the prompt files")
    console.paragraph("train on them, from this run's draft:")
    console.line(
        f"  draftbench run RECIPE --set prompts.train={quote(made.file)} --set draft.init=checkpoint "
        f"--set draft.checkpoint={made.run}"
    )


def _gain(gain: Interval) -> str:
    if not math.isfinite(gain.value):
        return MISSING
    low, high = (f"{x:+.3f}" if math.isfinite(x) else "" for x in (gain.low, gain.high))
    return f"{gain.value:+.3f}" + (f" [{low}, {high}]" if low and high else "")


def _known(gain: Interval) -> bool:
    return math.isfinite(gain.value) and math.isfinite(gain.low)


def _mark(by: str, few: bool) -> str:
    return _FEW if few and by != "prompt" else ""
