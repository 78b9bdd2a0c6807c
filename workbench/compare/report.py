"""A comparison as one HTML file that opens anywhere, offline: figures, table, configuration, origin, definitions.

Nothing is fetched: styles are inside, figures are SVG drawn by Chrome, or Plotly with its program
inside where the server has no Chrome. Every text of a user or a model is escaped.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from engine import __version__
from engine.catalogue import SERVERS_NOTE
from engine.errors import DraftbenchError
from engine.measure import definitions
from engine.numbers import number
from engine.traces.trace import Trace
from workbench.compare import figures, slices, speeds, tables
from workbench.compare.comparison import Comparison, change_words, rate_words, trace_of
from workbench.compare.figures import View
from workbench.compare.report_style import PAGE_CSS, TABLE_CSS
from workbench.shared import chart_parts, downloads, theme, tokens
from workbench.shared.method_names import mode_word
from workbench.shared.printing import printable

__all__ = ["TABLE_CSS", "Example", "comparison_report", "document", "figures_html", "rates_table", "table", "whole"]


@dataclass(frozen=True)
class Example:
    """One prompt as decoded with each draft, for the report's section of tokens."""

    prompt: str
    traces: tuple[tuple[str, Trace], ...]  # label of the draft, its trace


def comparison_report(
    comparison: Comparison,
    views: Sequence[View],
    *,
    title: str = "Draft comparison",
    example: Example | None = None,
    sections: Sequence[str] = (),
    made_at: datetime | None = None,
    interactive: bool = False,
) -> str:
    """The whole file as text. `sections`: HTML after the figures, escaped already. `interactive` forces Plotly figures
    even where a Chrome could draw SVG."""
    when = (made_at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"<h1>{_safe(title)}</h1>",
        f'<p class="faint">{when} · Draftbench {__version__} · {_safe(comparison.note)} · {chart_parts.INTERVAL}</p>',
        _drafts(comparison),
        "<h2>Serve it?</h2>",
        table(tables.verdicts(comparison)),
        "<h2>Rates</h2>",
        rates_table(comparison),
        not_comparable(comparison),
        *(f'<p class="faint">{_safe(sentence)}.</p>' for sentence in tables.unequal_training(comparison)),
        "<h2>Figures</h2>",
        *figures_html(views, interactive),
        *sections,
        _tokens(example),
        "<h2>As other systems would print it</h2>",
        table(tables.as_others(comparison)),
        "<h2>Which rate each server will report</h2>",
        f"<p>{_safe(SERVERS_NOTE)}</p>",
        table(tables.servers(comparison)),
        "<h2>Configuration</h2>",
        _configuration(comparison),
        "<h2>Origin</h2>",
        table(tables.provenance(comparison)),
        "<h2>Definitions</h2>",
        _definitions(),
    ]
    return document(title, "".join(parts))


def document(title: str, body: str) -> str:
    """A report's text around what stands in it: styles inside, nothing fetched. `body` is HTML, escaped already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data: blob:; font-src data:\">"
        f"<title>{_safe(title)}</title><style>{PAGE_CSS}{theme.fate_css()}{tokens.CSS}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def whole(comparison: Comparison, metric: str, curve: pd.DataFrame, axis: str, title: str, by: str = "kind") -> str:
    """The report of a comparison with everything that the page shows of it; `curve` as `queries.curve` gives it.

    `by`: how the answers are sliced (`slices.WAYS`).
    """
    views = [figures.rates(comparison, metric)]
    views += [figures.curve(comparison, curve, axis, kind) for kind in ("eval", "train")]
    views += [figures.slots(comparison), figures.lengths(comparison), figures.speed(comparison)]
    views += [
        figures.scatter(comparison, comparison.baseline, d.id, metric)
        for d in comparison.drafts
        if d.id != comparison.baseline
    ]
    views += [figures.groups(comparison, metric)]
    sliced = slices.load(comparison, by, metric, slices.sliced_runs)
    if sliced.results:
        views.append(slices.figure(comparison, metric, by, sliced))
    shown = [view for view in views if not view.frame.empty]
    sections = [_speeds(comparison), _slices(comparison, metric, by, sliced)]
    return comparison_report(comparison, shown, title=title, example=example_of(comparison), sections=sections)


def _speeds(comparison: Comparison) -> str:
    """The speeds at each draft's own best gamma and at one for all; nothing if none was timed."""
    known, damaged = speeds.load(comparison, kept=False)
    notes = [f"{label}: {why}" for label, why in damaged.items()]
    if not known:
        return ""
    gamma = speeds.common_gamma(known)
    different = tables.timing_differs(comparison)
    notes += [f"Speed-ups are not comparable: {different}"] * bool(different) + speeds.remarks(known, gamma)
    return f"<h2>Speed at each gamma</h2>{table(speeds.speeds_table(known, gamma))}{_notes(notes)}"


def _slices(comparison: Comparison, metric: str, by: str, shown: slices.Shown) -> str:
    """Where each draft fails, and its change from the baseline there; why, where there are no slices."""
    notes = [f"{label}: {why}" for label, why in shown.missing.items()] + slices.chances(comparison, shown)
    notes += dict.fromkeys(note for result in shown.results.values() for note in result.notes)
    body = ""
    if shown.results:
        body += table(slices.for_reading(slices.frame(comparison, shown), metric))
        notes.append(slices.FEW_MEANS)
    changes = slices.changes_table(shown, comparison.labels)
    if not changes.empty:
        body += f"<h3>Change from the baseline by slice</h3>{table(changes)}"
    return f"<h2>Where each draft fails: {_safe(slices.WAYS[by].lower())}</h2>{body}{_notes(notes)}"


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="faint">{_safe(note)}</p>' for note in notes)


def example_of(comparison: Comparison) -> Example | None:
    """The first prompt that every draft has a trace of."""
    traced = comparison.prompts.dropna(subset=["rounds"])
    counts = traced.groupby("prompt_id", sort=False).run_id.nunique()
    common = [str(prompt) for prompt, n in counts.items() if n == len(comparison.drafts)]
    for prompt in common[:1]:
        decoded = [(draft.label, trace_of(draft, comparison.temperature, prompt)) for draft in comparison.drafts]
        texts = traced[traced.prompt_id == prompt].text.dropna()
        traces = tuple((label, trace) for label, trace in decoded if trace is not None)
        question = str(texts.iloc[0]) if len(texts) else next((t.prompt for _, t in traces), "") or prompt
        return Example(question, traces) if traces else None
    return None


def rates_table(comparison: Comparison, metric: str = "") -> str:
    """Every rate of every draft with interval, and under it the paired change to the baseline, as HTML.

    The page shows it too. The row of `metric` is set off.
    """
    head = "".join(
        f'<th scope="col">{_safe(d.label)}{"<br><small>baseline</small>" if d.id == comparison.baseline else ""}</th>'
        for d in comparison.drafts
    )
    rows = []
    for name, rate in definitions.RATES.items():
        of_rate = comparison.rates[comparison.rates.metric == name]
        cells = "".join(_cell(row, comparison.letter) for row in of_rate.itertuples())
        css_class = ' class="chosen"' if name == metric else ""
        rows.append(f'<tr{css_class}><th scope="row">{rate.title}<br><small>{name}</small></th>{cells}</tr>')
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="Rates"><table class="rates">{body}</table></div>'


def _cell(row: Any, baseline: str) -> str:
    if pd.isna(row.value):
        return '<td>–<br><small class="faint">not measured</small></td>'
    lines = [f"<b>{row.value:.3f}</b> <small>{rate_words(row)}</small>"]
    if row.reason:
        lines.append(f'<small class="odd" title="{_safe(row.reason)}">⊘ not comparable</small>')
    elif not pd.isna(row.delta):
        words = change_words(row, baseline)
        counted = "n = " in words or "paired on" in words
        n = "" if counted else f' <span class="faint">n = {number(row.delta_prompts, 0)}</span>'
        lines.append(f"<small>{_safe(words)}{n}</small>")
    lines.append(
        f'<small class="faint">n = {number(row.n_prompts, 0)} prompts, {number(row.n_tokens, 0)} tokens</small>'
    )
    return f"<td>{'<br>'.join(lines)}</td>"


def reasons(comparison: Comparison) -> list[tuple[str, str, list[str]]]:
    """(draft, reason, rates) of what was not subtracted."""
    rows = comparison.rates[comparison.rates.reason != ""]
    grouped = rows.groupby(["label", "reason"], sort=False)
    return [(str(label), str(reason), list(part.metric)) for (label, reason), part in grouped]


def reasons_together(comparison: Comparison) -> list[tuple[list[str], str, list[str]]]:
    """(drafts, reason, rates): a reason that holds for the same rates of several drafts is given once."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for label, reason, names in reasons(comparison):
        together.setdefault((reason, tuple(names)), []).append(label)
    return [(labels, reason, list(names)) for (reason, names), labels in together.items()]


def comparable_rates(comparison: Comparison, labels: Sequence[str]) -> list[str]:
    """The rates of which every one of these drafts shows its change from the baseline."""
    rows = comparison.rates[comparison.rates.label.isin(labels) & comparison.rates.delta.notna()]
    return [rate for rate in definitions.RATES if (rows.metric == rate).sum() == len(set(labels))]


def heading_of(comparison: Comparison) -> str:
    """'Partly comparable' if some rate of every draft with a reason is comparable, else 'Not comparable'; '' if all."""
    labels = list(dict.fromkeys(label for label, _, _ in reasons(comparison)))
    if not labels:
        return ""
    return "Partly comparable" if all(comparable_rates(comparison, [label]) for label in labels) else "Not comparable"


def not_comparable(comparison: Comparison) -> str:
    """What was not subtracted and why, and what was, as HTML; nothing if all was."""
    items = "".join(
        f"<li><b>{_safe('; '.join(labels))}</b>: {_safe(reason)}. {_which(comparison, labels, names)}</li>"
        for labels, reason, names in reasons_together(comparison)
    )
    return f'<h3>{heading_of(comparison)}</h3><ul class="odd">{items}</ul>' if items else ""


def _which(comparison: Comparison, labels: Sequence[str], names: Sequence[str]) -> str:
    rates = comparable_rates(comparison, labels)
    return f"Not subtracted: {', '.join(names)}." + (f" Subtracted: {', '.join(rates)}." if rates else "")


def table(frame: pd.DataFrame) -> str:
    """A plain table, every cell escaped, numbers to three places."""
    head = "".join(f'<th scope="col">{_safe(column)}</th>' for column in frame.columns)
    rows = "".join(
        f"<tr><td>{_breakable(row[0])}</td>" + "".join(f"<td>{_safe(_text(cell))}</td>" for cell in row[1:]) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="Table">{whole}</div>'


def _breakable(cell: Any) -> str:
    """The first cell of a row. A name without spaces, as that of a setting, may go on in another line after . and _"""
    text = _safe(_text(cell))
    return text if " " in text else re.sub(r"(?<=[._])(?=[^._])", "<wbr>", text)


def _drafts(comparison: Comparison) -> str:
    items = []
    for draft in comparison.drafts:
        run = draft.run
        base = " · baseline" if draft.id == comparison.baseline else ""
        facts = [
            run.domain,
            run.scenario,
            mode_word(run.mode or ""),
            run.loss,
            "" if run.seed is None else f"seed {run.seed}",
            f"certificate {tables.certificate(run)}",
        ]
        note = f"<br>{_safe(run.notes)}" if run.notes else ""
        tags = f" · tags: {_safe(', '.join(run.tags))}" if run.tags else ""
        line = f"{_safe(run.run_id)} · {_safe(' · '.join(str(f) for f in facts if f))}"
        items.append(f"<li><b>{_safe(draft.label)}</b>{base}<br><small>{line}{tags}{note}</small></li>")
    target = ", ".join(sorted({str(d.run.target) for d in comparison.drafts}))
    return f"<p>Target: <b>{_safe(target)}</b></p><ul>{''.join(items)}</ul>"


def figures_html(views: Sequence[View], interactive: bool) -> Iterable[str]:
    """Each figure for paper: an SVG that Chrome drew, or Plotly's own where there is no Chrome."""
    figures = [view.draw("light") for view in views]
    drawn: list[str] | None = None
    if not interactive and downloads.chrome() is not None and figures:
        try:
            drawn = [_as_image(svg) for svg in downloads.figures_bytes(figures, "svg", timeout_s=120)]
        except DraftbenchError:
            drawn = None  # Chrome is there but does not work: the figures still can be interactive
    if drawn is None:
        drawn = [
            printable(figure)
            .update_layout(width=None, autosize=True)
            .to_html(
                full_html=False,
                include_plotlyjs=number == 0,
                config={"displaylogo": False},
                post_script=_save_script(view.name),
            )
            for number, (view, figure) in enumerate(zip(views, figures, strict=True))
        ]
    for view, body in zip(views, drawn, strict=True):
        yield f'<figure role="img" aria-label="{_safe(view.alt)}">{body}</figure>'


def _save_script(name: str) -> str:
    """Two buttons under an interactive figure that save it; `{plot_id}` is filled in by Plotly."""
    file_name = json.dumps(name).replace("<", "\\u003c")
    return (
        "const plot = document.getElementById('{plot_id}');"
        "for (const kind of ['svg', 'png']) { const button = document.createElement('button');"
        "button.textContent = 'Save ' + kind.toUpperCase();"
        f"button.onclick = () => Plotly.downloadImage(plot, {{format: kind, filename: {file_name}, scale: 2}});"
        "plot.parentNode.appendChild(button); }"
    )


def _as_image(svg: bytes) -> str:
    """An SVG inside the file as an image: its ids cannot clash with another's, and nothing in it can run."""
    return f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode("ascii")}">'


def _tokens(example: Example | None) -> str:
    if example is None:
        return ""
    blocks = []
    for label, trace in example.traces:
        rates = trace.counts.rates()
        line = (
            f"tau {number(rates['tau'], 2)}, {number(rates['per_examined'])} of the examined tokens accepted, "
            f"{len(trace.rounds)} rounds"
        )
        blocks.append(
            f"<h3>{_safe(label)}</h3><p class='faint'>{line}</p>{tokens.answer_html(trace.rounds, tone='light')}"
        )
    question = f"<p class='prompt'>{tokens.visible(example.prompt)}</p>"
    return f"<h2>The same prompt, token by token</h2>{question}{tokens.legend_html()}{''.join(blocks)}"


def _configuration(comparison: Comparison) -> str:
    frame = tables.configuration(comparison)
    differing = frame[frame.differs].drop(columns="differs")
    same = frame[~frame.differs].drop(columns="differs").iloc[:, :2]
    differences = table(differing) if len(differing) else "<p>The recipes are equal.</p>"
    rest = table(same.set_axis(["key", "value"], axis=1))
    equal = f"<details><summary>Equal in all ({len(same)} settings)</summary>{rest}</details>"
    return f"<h3>≠ Differs</h3>{differences}{equal}"


def _definitions() -> str:
    entries = (
        f"<dt>{_safe(rate.title)} <small>({name})</small></dt><dd>{_safe(rate.definition)}</dd>"
        for name, rate in definitions.RATES.items()
    )
    return f"<dl>{''.join(entries)}</dl>"


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return "–" if pd.isna(cell) else f"{cell:.3f}"
    return "–" if cell is None else str(cell)


def _safe(value: object) -> str:
    return html.escape(str(value), quote=True)
