"""The figures of a comparison, shared by the page and the report; each is drawn on demand in a light or dark tone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from engine.measure.compare import ON_TARGET_TEXT, SAME_TEMPERATURE
from engine.measure.definitions import RATES
from workbench.compare.comparison import Comparison, accepted_lengths, paired_prompts, rates_by_group, timings
from workbench.shared import chart_parts as parts
from workbench.shared import learning_curve, rate_charts, speed_charts

Draw = Callable[[str], go.Figure]  # tone -> figure


@dataclass(frozen=True)
class View:
    """A figure before it is drawn: file name, alternative text, how to draw it, its numbers."""

    name: str
    alt: str
    draw: Draw
    frame: pd.DataFrame


def rates(comparison: Comparison, metric: str) -> View:
    """One rate of each draft with its interval, and the untrained draft's."""
    rows = comparison.rates[(comparison.rates.metric == metric) & comparison.rates.value.notna()]
    values = "; ".join(f"{r.label} {r.value:.3f}" for r in rows.itertuples())
    note = f"{comparison.noted(metric)}; {parts.interval_note(rows)}"
    return view_of(
        comparison,
        file_name(f"rate-{metric}", comparison),
        f"{RATES[metric].title}: {values}",
        lambda tone: rate_charts.rate_bars(rows, metric, tone, note),
        rows,
    )


def curve(comparison: Comparison, rows: pd.DataFrame, axis: str, kind: str) -> View:
    """Training curves of the drafts on one axis; `rows` as `queries.curve` gives them."""
    near = (rows.temperature - comparison.temperature).abs() < SAME_TEMPERATURE
    shown = rows[(rows.kind == kind) & ((kind == "train") | near)]
    watched = sorted({str(d.run.provenance.prompts.watched or "?") for d in comparison.drafts})
    note, what = "each point the mean of one batch, no interval", "Training loss"
    if len({draft.run.loss for draft in comparison.drafts}) > 1:
        note = "different losses: the shapes compare, the heights do not; each point one batch, no interval"
    if kind == "eval":
        note = f"T = {comparison.temperature:g}, n = {' or '.join(watched)} watched prompts, no interval"
        what = "Exact acceptance of watched prompts"
    alt = f"{what} by {learning_curve.AXES[axis]} of {', '.join(comparison.labels.values())}"
    draw: Draw = lambda tone: learning_curve.draw(shown, axis, kind, comparison.labels, tone, note)  # noqa: E731
    name = file_name("curve-eval", comparison) if kind == "eval" else f"curve-{kind}"
    return view_of(comparison, name, alt, draw, shown)


def slots(comparison: Comparison) -> View:
    """Acceptance by position in the proposal."""
    note = f"{traced(comparison)}, T = {comparison.temperature:g}; {parts.interval_note(comparison.slots)}"
    alt = "Joint and conditional acceptance at each position of the proposal, a line a draft"
    return view_of(
        comparison,
        file_name("by-position", comparison),
        alt,
        lambda tone: rate_charts.by_slot(comparison.slots, tone, note),
        comparison.slots,
    )


def lengths(comparison: Comparison) -> View:
    """Histogram of accepted lengths."""
    counts = accepted_lengths(comparison)
    rows = [{"label": label, "accepted": n, "rounds": c} for label, some in counts.items() for n, c in enumerate(some)]
    note = f"{traced(comparison)}, T = {comparison.temperature:g}; counts, no interval"
    alt = "Share of rounds in which 0, 1, 2 and more tokens were accepted, by draft"
    return view_of(
        comparison,
        file_name("accepted-lengths", comparison),
        alt,
        lambda tone: rate_charts.accepted_lengths(counts, tone, note),
        pd.DataFrame(rows),
    )


def speed(comparison: Comparison) -> View:
    """Speed-up by gamma."""
    speeds = timings(comparison)
    rows = [{"label": label, **row.document()} for label, one in speeds.items() for row in one.by_gamma]
    frame = pd.DataFrame(rows)
    conditions = sorted({f"T = {one.temperature:g}, {one.threads or '?'} threads" for one in speeds.values()})
    n = sorted({str(one.speedup.n_prompts if one.speedup else "?") for one in speeds.values()})
    note = (
        f"n = {' or '.join(n)} prompts in pairs, {' or '.join(conditions)}, batch 1; "
        f"measured point: {speed_charts.clocked_note(speeds)}"
    )
    alt = "Speed-up over plain decoding by gamma: two models as curves, and the measured point, for each draft"
    return view_of(comparison, "speed-up", alt, lambda tone: speed_charts.speedup_by_gamma(speeds, tone, note), frame)


def groups(comparison: Comparison, metric: str) -> View:
    """The rate by prompt group."""
    frame = rates_by_group(comparison, metric)
    note = f"{comparison.noted(metric)}; {parts.interval_note(frame)}"
    alt = f"{RATES[metric].title} by prompt group, a bar a draft"
    return view_of(
        comparison,
        file_name("by-group", comparison),
        alt,
        lambda tone: rate_charts.group_bars(frame, metric, tone, note),
        frame,
    )


def scatter(comparison: Comparison, first: str, second: str, metric: str, prompt: str | None = None) -> View:
    """Each prompt under two drafts."""
    frame = paired_prompts(comparison, first, second, metric)
    names = (comparison.labels[first], comparison.labels[second])
    above = int((frame.b > frame.a).sum())
    on_text = metric in ON_TARGET_TEXT or comparison.temperature == 0
    of_what = "with the same target text" if on_text else "each draft's own sampled answer"
    note = f"n = {len(frame)} prompts, {of_what}, T = {comparison.temperature:g}; no interval for one prompt"
    alt = (
        f"{RATES[metric].title} of each prompt: {names[0]} across, {names[1]} up; "
        f"{above} of {len(frame)} prompts above the diagonal"
    )
    draw: Draw = lambda tone: rate_charts.prompt_scatter(frame, metric, names, tone, prompt, note)  # noqa: E731
    return view_of(comparison, file_name(f"prompts-{metric}", comparison, baseline=True), alt, draw, frame)


def view_of(comparison: Comparison, name: str, alt: str, draw: Draw, frame: pd.DataFrame) -> View:
    """A figure that says which domain and target its drafts are for."""
    runs = [draft.run for draft in comparison.drafts]
    of = parts.subject((run.domain for run in runs), (run.target for run in runs))
    return View(name, alt, lambda tone: parts.about(draw(tone), of), frame)


def traced(comparison: Comparison) -> str:
    """How many prompts and rounds the sampled rates rest on."""
    n = sorted({int(n) for n in comparison.rates[comparison.rates.metric == "tau"].n_prompts.dropna()})
    return f"n = {' or '.join(map(str, n)) or 'no'} traced prompts"


def file_name(what: str, comparison: Comparison, *, baseline: bool = False) -> str:
    """A name for its file, with the temperature, and with the baseline where that matters."""
    against = f"-to-{comparison.baseline}" if baseline else ""
    return f"{what}{against}-T{comparison.temperature:g}"
