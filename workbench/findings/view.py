"""Findings as tables, sentences and figures. No Streamlit."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from engine.findings.as_json import shifted
from engine.findings.claim import Claim
from engine.findings.efforts import MEANING
from engine.findings.evaluate import Cell, Finding, Outcome, Pooled
from engine.findings.runs import Run
from engine.findings.verdicts import BETTER, FEW, NOT, REPRODUCED, SAME
from engine.findings.words import at_words, ranged
from engine.records.interval import Interval
from workbench.shared import chart_parts as parts
from workbench.shared import theme
from workbench.shared.pages import link

# A verdict is shown by word and icon; colour only helps.
VERDICTS: dict[str, tuple[str, str]] = {
    BETTER: (":material/star:", "green"),
    REPRODUCED: (":material/check_circle:", "green"),
    SAME: (":material/trending_flat:", "blue"),
    NOT: (":material/cancel:", "orange"),
    FEW: (":material/hourglass_empty:", "gray"),
}
_MARKS = {REPRODUCED: "circle", SAME: "triangle-up", NOT: "x", FEW: "circle-open", BETTER: "star"}


def badge(verdict: str) -> str:
    """A verdict as Markdown: icon, word and colour."""
    icon, colour = VERDICTS[verdict]
    return f":{colour}-badge[{icon} {verdict}]"


def place(where: Mapping[str, Any]) -> str:
    """'biology, curated, offline, forward_kl': where a comparison was made."""
    forms = {"against": "against {}", "queries": "{} queries"}
    return ", ".join(forms.get(key, "{}").format(value) for key, value in where.items() if value)


def percent(interval: Interval) -> str:
    """'+4.1% [+2.0%, +6.3%]', or a dash where there is no value."""
    return ranged(interval, "+.1%")


def points(interval: Interval) -> str:
    """'+0.012 [+0.006, +0.019]': a difference of acceptances."""
    return ranged(interval, "+.3f")


def table(claim: Claim, cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per comparison, with a link to its runs side by side."""
    return pd.DataFrame(
        {
            "where": place(cell.where),
            "T": f"{cell.temperature:g}",
            "runs": link("compare", runs=cell.runs[:6]),
            claim.base: cell.base_rate,
            claim.other: cell.other_rate,
            "relative": percent(cell.relative),
            "absolute": points(cell.absolute),
            "seeds": len(cell.by_seed),
            "prompts": cell.absolute.n_prompts,
            "verdict": cell.verdict if cell.counts else f"{cell.verdict} (not counted)",
            "why": cell.reason,
            "each seed": ", ".join(f"{value:+.3f}" for value in cell.by_seed),
            "remark": cell.remark,
        }
        for cell in cells
    )


def pooled_table(claim: Claim, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The effect over all comparisons, at each temperature and in each domain; for claims on modes at each effort."""
    rows = []
    for outcome in outcomes:
        if outcome.pooled is None:
            continue
        effort = {"effort": outcome.effort} if outcome.effort else {}
        rows += [effort | {"place": name} | _pooled_row(claim, one) for name, one in _parts(outcome)]
    return pd.DataFrame(rows)


def _parts(outcome: Outcome) -> list[tuple[str, Pooled]]:
    """The whole, each temperature and each domain, where there are several, by name."""
    parts = [] if outcome.pooled is None else [("all together", outcome.pooled)]
    if len(outcome.by_temperature) > 1:
        parts += [(f"T = {t:g} alone", one) for t, one in outcome.by_temperature.items()]
    return parts + (list(outcome.by_domain.items()) if len(outcome.by_domain) > 1 else [])


def _pooled_row(claim: Claim, pooled: Pooled) -> dict[str, Any]:
    return {
        "T": at_words(pooled.temperatures),
        claim.base: pooled.base_rate,
        claim.other: pooled.other_rate,
        "ratio": ratio(pooled.relative),
        "relative": percent(pooled.relative),
        "absolute": points(pooled.absolute),
        "comparisons": pooled.n_cells,
        "runs": len(pooled.runs),
        "seeds": len(pooled.by_seed),
        "prompts": pooled.absolute.n_prompts,
        "by itself": pooled.verdict,
    }


def ratio(relative: Interval) -> str:
    """'1.041 [1.020, 1.063]': the one acceptance over the other."""
    return ranged(shifted(relative, 1.0), ".3f")


def effort_lines(finding: Finding) -> list[str]:
    """For a claim on modes: what each kind of effort means, with its verdict."""
    if not finding.claim.by_effort:
        return []
    return [
        f"{outcome.effort} ({MEANING[outcome.effort]}): {outcome.verdict}; {outcome.reason}"
        for outcome in finding.outcomes
    ]


def headline(finding: Finding) -> str:
    """The claim's effect over all its comparisons in one line; empty without any."""
    pooled = finding.headline.pooled
    if pooled is None:
        return ""
    effects = [f"absolute {points(pooled.absolute)}"]
    if not math.isnan(pooled.relative.value):
        effects = [f"ratio {ratio(pooled.relative)}", f"relative {percent(pooled.relative)}", *effects]
    counted = (
        f"{pooled.n_cells} comparisons of {len(pooled.runs)} runs, {pooled.absolute.n_prompts} prompts, "
        f"{len(pooled.by_seed)} seed(s)"
    )
    return f"{'; '.join(effects)} (over {counted}, T = {at_words(pooled.temperatures)})"


def brief(pooled: Pooled) -> str:
    """'+2.9% [+2.4%, +3.4%]', or in acceptance where a ratio makes no sense."""
    return f"{points(pooled.absolute)} in acceptance" if math.isnan(pooled.relative.value) else percent(pooled.relative)


def runs_table(runs: Sequence[str], known: Mapping[str, Run]) -> pd.DataFrame:
    """A row per run with a link to its own page, its method, and how much it was trained."""
    return pd.DataFrame(
        {
            "run": link("run", run=run),
            "domain": known[run].facts["domain"],
            "scenario": known[run].facts["scenario"],
            "loss": known[run].facts["loss"],
            "mode": known[run].facts["train.mode"],
            "queries": known[run].facts["n_train"],
            "seed": known[run].facts["train.seed"],
            "steps": known[run].effort.get("steps_done"),
            "target tokens": known[run].effort.get("tokens_seen"),
        }
        for run in runs
        if run in known  # one may have been removed a moment ago
    )


def runs_of(cells: Sequence[Cell]) -> list[str]:
    """The runs behind some comparisons, each once."""
    return list(dict.fromkeys(run for cell in cells for run in cell.runs))


def remarks(cells: Sequence[Cell]) -> list[str]:
    """What a reader should know of the comparisons, each once."""
    return list(dict.fromkeys(cell.remark for cell in cells if cell.remark))


def differences(facts: Mapping[str, tuple[Any, Any]]) -> str:
    """'train.epochs (5 and 1)': what keeps two runs from being compared."""
    return ", ".join(f"{key} ({_brief(a)} and {_brief(b)})" for key, (a, b) in facts.items())


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 28 else text[:27] + "…"


def effects(claim: Claim, cells: Sequence[Cell], tone: str, effort: str = "") -> go.Figure:
    """The measured effect of each comparison with its interval, and the band that the paper states."""
    rows = [(f"{place(cell.where)}, T={cell.temperature:g}", cell) for cell in cells if cell.counts]
    return _forest(claim, rows, tone, effort)


def pooled_effects(claim: Claim, outcomes: Sequence[Outcome], tone: str) -> go.Figure:
    """The same over all comparisons, at each temperature and in each domain; for claims on modes at each effort."""
    rows: list[tuple[str, Cell | Pooled]] = []
    for outcome in outcomes:
        for name, one in _parts(outcome):
            at = "" if name.startswith("T =") else f"T = {at_words(one.temperatures)}"
            rows.append((", ".join(filter(None, [outcome.effort, name, at])), one))
    return _forest(claim, rows, tone, "comparisons taken together")


def _forest(claim: Claim, rows: Sequence[tuple[str, Cell | Pooled]], tone: str, of: str) -> go.Figure:
    absolute = all(math.isnan(one.relative.value) for _, one in rows)
    shown = [(name, one) for name, one in rows if absolute or not math.isnan(one.relative.value)]
    colours, unit = theme.TONES[tone], "acceptance" if absolute else "relative"
    figure = go.Figure(layout={"template": theme.template(tone)})
    estimates = pd.DataFrame([(one.absolute if absolute else one.relative).as_dict() for _, one in shown])
    title = ", ".join(filter(None, ["Effect", of, unit]))
    _dress(figure, title, parts.interval_note(estimates) if shown else "no comparison", len(shown))
    if claim.band and not absolute:
        low, high = claim.band
        figure.add_vrect(x0=low, x1=high, fillcolor=theme.PALETTE[4], opacity=0.22, line_width=0, layer="below")
        figure.add_annotation(
            x=(low + high) / 2, y=1, yref="paper", yanchor="bottom", text="the paper", showarrow=False
        )
    figure.add_vline(x=0, line={"color": colours.faint, "dash": "dash"})
    for verdict, symbol in _MARKS.items():
        part = [(i, one, one.absolute if absolute else one.relative) for i, (_, one) in enumerate(shown)]
        _add_points(figure, [row for row in part if row[1].verdict == verdict], verdict, symbol)
    names = [html.escape(name, quote=False) for name, _ in shown]
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(shown))), ticktext=names, autorange="reversed", showgrid=False
    )
    if len(shown) > 24:
        figure.update_yaxes(tickfont_size=10)
    figure.update_xaxes(title=f"{html.escape(claim.other, quote=False)} against {html.escape(claim.base, quote=False)}")
    if not absolute:
        figure.update_xaxes(tickformat="+.0%")
    return figure


def _dress(figure: go.Figure, title: str, note: str, rows: int) -> None:
    """Title with the kind of interval on its second line, a height for the rows, and the legend under the plot."""
    second = {"text": note, "font": {"size": 12}}
    figure.update_layout(
        title={"text": title, "subtitle": second, "y": 0.97, "yanchor": "top", "yref": "container"},
        showlegend=True,
        height=190 + (40 if rows <= 12 else 24 if rows <= 24 else 15) * rows,
        margin={"t": 78, "b": 90},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    )


def _add_points(
    figure: go.Figure, rows: Sequence[tuple[int, Cell | Pooled, Interval]], verdict: str, symbol: str
) -> None:
    if not rows:
        return
    figure.add_scatter(
        x=[i.value for _, _, i in rows],
        y=[place_ for place_, _, _ in rows],
        mode="markers",
        name=verdict,
        marker={"symbol": symbol, "size": 11, "color": theme.PALETTE[list(_MARKS).index(verdict) * 2 % 7]},
        error_x=parts.error_bars(pd.DataFrame([i.as_dict() for _, _, i in rows])),
        customdata=[f"{len(c.by_seed)} seed(s), {i.n_prompts} prompts" for _, c, i in rows],
        hovertemplate="%{x:+.3f}<br>%{customdata}<extra></extra>",
    )
