"""The figures of a comparison, the same for the page and the report: each drawn when asked for, in the tone asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from workbench.compare import comparison
from workbench.compare.comparison import Comparison
from workbench.shared import charts

Draw = Callable[[str], go.Figure]  # tone -> figure


@dataclass(frozen=True)
class View:
    """A figure to be: file name, description for those who cannot see it, how to draw it, its numbers."""

    name: str
    alt: str
    draw: Draw
    frame: pd.DataFrame


def rates(found: Comparison, metric: str) -> View:
    """One rate of each draft with its interval, and the untrained draft's."""
    rows = found.rates[(found.rates.metric == metric) & found.rates.value.notna()]
    told = "; ".join(f"{r.label} {r.value:.3f}" for r in rows.itertuples())
    note = f"{found.noted(metric)}; {charts.INTERVAL}"
    return View(
        file_name(f"rate-{metric}", found),
        f"{charts.RATES[metric]}: {told}",
        lambda tone: charts.rate_bars(rows, metric, tone, note),
        rows,
    )


def curve(found: Comparison, rows: pd.DataFrame, axis: str, kind: str) -> View:
    """Training curves of the drafts on one axis; `rows` as `queries.curve` gives them."""
    near = (rows.temperature - found.temperature).abs() < 1e-6
    shown = rows[(rows.kind == kind) & ((kind == "train") | near)]
    watched = sorted({str(d.run.provenance.prompts.watched or "?") for d in found.drafts})
    note, what = "each point the mean of one batch, no interval", "Training loss"
    if len({draft.run.loss for draft in found.drafts}) > 1:
        note = "different losses: the shapes compare, the heights do not; each point one batch, no interval"
    if kind == "eval":
        note = f"T = {found.temperature:g}, n = {' or '.join(watched)} watched prompts, no interval"
        what = "Exact acceptance of watched prompts"
    alt = f"{what} by {charts.AXES[axis]} of {', '.join(found.labels.values())}"
    draw: Draw = lambda tone: charts.learning_curve(shown, axis, kind, found.labels, tone, note)  # noqa: E731
    name = file_name("curve-eval", found) if kind == "eval" else f"curve-{kind}"
    return View(name, alt, draw, shown)


def slots(found: Comparison) -> View:
    """Acceptance by position in the proposal."""
    note = f"{traced(found)}, T = {found.temperature:g}; {charts.INTERVAL}"
    alt = "Joint and conditional acceptance at each position of the proposal, a line a draft"
    return View(file_name("by-position", found), alt, lambda tone: charts.by_slot(found.slots, tone, note), found.slots)


def lengths(found: Comparison) -> View:
    """Histogram of accepted lengths."""
    counts = comparison.lengths(found)
    rows = [{"label": label, "accepted": n, "rounds": c} for label, some in counts.items() for n, c in enumerate(some)]
    note = f"{traced(found)}, T = {found.temperature:g}; counts, no interval"
    alt = "Share of rounds in which 0, 1, 2 and more tokens were accepted, by draft"
    return View(
        file_name("accepted-lengths", found),
        alt,
        lambda tone: charts.accepted_lengths(counts, tone, note),
        pd.DataFrame(rows),
    )


def speed(found: Comparison) -> View:
    """Speed-up by gamma."""
    timings = comparison.speeds(found)
    rows = [{"label": label, **row.document()} for label, speed in timings.items() for row in speed.by_gamma]
    frame = pd.DataFrame(rows)
    conditions = sorted({f"T = {speed.temperature:g}, {speed.threads or '?'} threads" for speed in timings.values()})
    n = sorted({str(speed.speedup.n_prompts if speed.speedup else "?") for speed in timings.values()})
    note = f"n = {' or '.join(n)} prompts in pairs, {' or '.join(conditions)}, batch 1; measured point with {charts.INTERVAL}"
    alt = "Speed-up over plain decoding by gamma: two models as curves, and the measured point, for each draft"
    return View("speed-up", alt, lambda tone: charts.speedup_by_gamma(timings, tone, note), frame)


def groups(found: Comparison, metric: str) -> View:
    """The rate by prompt group."""
    frame = comparison.groups(found, metric)
    note = f"{found.noted(metric)}; {charts.INTERVAL}, none for a group of one prompt"
    alt = f"{charts.RATES[metric]} by prompt group, a bar a draft"
    return View(file_name("by-group", found), alt, lambda tone: charts.group_bars(frame, metric, tone, note), frame)


def scatter(found: Comparison, first: str, second: str, metric: str, chosen: str | None = None) -> View:
    """Each prompt under two drafts."""
    frame = comparison.paired_prompts(found, first, second, metric)
    names = (found.labels[first], found.labels[second])
    above = int((frame.b > frame.a).sum())
    on_text = metric in ("exact", "greedy_agreement") or found.temperature == 0
    of_what = "with the same target text" if on_text else "each draft's own sampled answer"
    note = f"n = {len(frame)} prompts, {of_what}, T = {found.temperature:g}; no interval for one prompt"
    alt = f"{charts.RATES[metric]} of each prompt: {names[0]} across, {names[1]} up; {above} of {len(frame)} prompts above the diagonal"
    draw: Draw = lambda tone: charts.prompt_scatter(frame, metric, names, tone, chosen, note)  # noqa: E731
    return View(file_name(f"prompts-{metric}", found, baseline=True), alt, draw, frame)


def traced(found: Comparison) -> str:
    """How many prompts and rounds the sampled rates rest on."""
    n = sorted({int(n) for n in found.rates[found.rates.metric == "tau"].n_prompts.dropna()})
    return f"n = {' or '.join(map(str, n)) or 'no'} traced prompts"


def file_name(what: str, found: Comparison, *, baseline: bool = False) -> str:
    """A name for a file of it: files of two temperatures, and of two baselines where it matters, lie beside each other."""
    against = f"-to-{found.baseline}" if baseline else ""
    return f"{what}{against}-T{found.temperature:g}"
