"""The findings as one HTML file that opens anywhere, offline: claims, figures, tables, and the runs with their origin.

Also a program, for the command line: python -m workbench.findings.report FILE [STUDY]
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from engine import __version__
from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_atomic
from engine.findings.as_json import run_json
from engine.findings.claim import ordinal
from engine.findings.evaluate import Finding
from engine.findings.home import HomeFindings, evaluate_home
from engine.findings.missing import undecided
from engine.findings.verdicts import ENOUGH_SEEDS
from engine.findings.words import PAPER, PAPER_URL, sentence
from engine.index import queries
from engine.index.connection import reading
from engine.paths import home
from engine.untrusted.visible import visible
from workbench.compare import report
from workbench.compare.figures import View
from workbench.findings import acceptance, figures
from workbench.findings import view as findings_view
from workbench.shared import chart_parts, learning_curve

LoadCurve = Callable[[list[str]], pd.DataFrame]  # run ids -> the frame of `engine.index.queries.curve`


def whole(
    evaluated: HomeFindings,
    rates: pd.DataFrame,
    load_curve: LoadCurve,
    study: str | None = None,
    *,
    made_at: datetime | None = None,
    interactive: bool = False,
) -> str:
    """The whole file as text. `rates` is `acceptance.acceptance(evaluated)`; `interactive` forces Plotly figures."""
    when = (made_at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    views = claim_views(evaluated) + figure_views(rates, load_curve)
    drawn = dict(zip((view.name for view in views), report.figures_html(views, interactive), strict=True))
    of = f" of the study {study}" if study else ""
    origin = f"{when} · Draftbench {__version__} · {evaluated.n_runs} runs{of} · {chart_parts.INTERVAL}"
    parts = [
        "<h1>Findings</h1>",
        f'<p class="faint">{_safe(origin)}</p>',
        f'<p>The claims of <a href="{PAPER_URL}">{_safe(PAPER)}</a>, tested on these runs. {_safe(HOW)}</p>',
        report.table(summary(evaluated.findings)),
        *(_claim(finding, evaluated, drawn) for finding in evaluated.findings),
        "<h2>Figures</h2>",
        *(drawn[view.name] for view in views if not view.name.startswith("finding-")),
        "<h2>Acceptance</h2>",
        report.table(acceptance.table(rates)),
        "<h2>Runs and their origin</h2>",
        report.table(origins(evaluated)),
    ]
    return report.document("Findings", "".join(parts))


HOW = (
    "Acceptance is exact acceptance: the mean of sum min(p, q) "
    "over the target's own text (for claim 6b, argmax acceptance: the mean of p(argmax q)). Two runs are compared only "
    "where the setting in question is their only difference, on "
    "the same held-out prompts, paired by prompt; intervals are bootstraps over prompts. A claim's verdict is that of "
    f"its weakest comparison, and nothing is called reproduced before {ENOUGH_SEEDS} seeds agree. A comparison is made "
    "at one temperature; effects over several are averages, with each temperature's own beside them. The paper "
    "does not state whether it means relative or absolute percent, so both are given."
)


def summary(findings: Sequence[Finding]) -> pd.DataFrame:
    """A row per claim: verdict, effect over all comparisons, reason."""
    rows = []
    for finding in findings:
        pooled = finding.headline.pooled
        rows.append(
            {
                "": finding.claim.number,
                "claim": finding.claim.title,
                "verdict": finding.verdict,
                "ratio": "–" if pooled is None else findings_view.ratio(pooled.relative),
                "relative": "–" if pooled is None else findings_view.percent(pooled.relative),
                "absolute": "–" if pooled is None else findings_view.points(pooled.absolute),
                "result": sentence(finding),
                "why": finding.reason,
            }
        )
    return pd.DataFrame(rows)


def origins(evaluated: HomeFindings) -> pd.DataFrame:
    """Every run that took part, with its origin."""
    columns = {
        "run": "run",
        "commit": "commit",
        "seeds": "seeds",
        "steps_done": "steps",
        "tokens_seen": "target tokens",
        "n_train": "queries",
        "target_fingerprint": "target",
        "train_hash": "training prompts",
        "heldout_hash": "held-out prompts",
        "draft_sha256": "draft",
    }
    rows = []
    for run in evaluated.runs:
        facts: dict[str, Any] = run_json(evaluated, run)
        facts["seeds"] = ", ".join(f"{name} {seed}" for name, seed in (facts["seeds"] or {}).items())
        facts["commit"] = f"{str(facts['commit'] or '–')[:12]}{' (changed)' if facts['changed'] else ''}"
        for key in ("target_fingerprint", "train_hash", "heldout_hash", "draft_sha256"):
            facts[key] = str(facts[key] or "–")[:16]
        rows.append({name: facts[key] for key, name in columns.items()})
    return pd.DataFrame(rows, columns=list(columns.values()))


def claim_views(evaluated: HomeFindings) -> list[View]:
    """A figure for each claim and kind of effort with comparisons."""
    views = []
    for finding in evaluated.findings:
        for outcome in finding.outcomes:
            if any(cell.counts for cell in outcome.cells):
                views.append(_claim_view(finding, outcome.effort, outcome.cells))
    return views


def _claim_view(finding: Finding, effort: str, cells: Any) -> View:
    title = ", ".join(filter(None, [finding.claim.title, effort]))
    return View(
        _name(finding, effort),
        f"{title}: the effect of each comparison with its interval",
        lambda tone: findings_view.effects(finding.claim, cells, tone, effort),
        findings_view.table(finding.claim, cells),
    )


def _name(finding: Finding, effort: str) -> str:
    return f"finding-{finding.claim.key}-{effort}".replace(" ", "-").rstrip("-")


def figure_views(rates: pd.DataFrame, load_curve: LoadCurve) -> list[View]:
    """Acceptance by method and by size at every temperature, and learning curves of each domain along every axis."""
    if rates.empty:
        return []
    offered = acceptance.choices(rates)
    scenario = offered["scenario"][0]
    views = []
    for temperature in offered["temperature"]:
        views.append(_by_method(acceptance.usual_size(rates), temperature))
        views += [_by_size(rates, name, temperature) for name in offered["scenario"] if _several_sizes(rates, name)]
    rows = acceptance.usual_size(rates[rates.scenario == scenario])
    for domain in sorted(rows.domain.unique()):
        labels = figures.curve_labels(rows, domain, scenario)
        curve = load_curve(list(labels))
        views += [
            _curve(curve, labels, axis, offered["temperature"][0], f"{domain}, {scenario}")
            for axis in learning_curve.AXES
        ]
    return views


def _several_sizes(rates: pd.DataFrame, scenario: str) -> bool:
    rows = rates[rates.scenario == scenario]
    return bool(rows.groupby(["domain", "method"]).n_train.nunique().max() > 1)


def _by_method(rows: pd.DataFrame, temperature: float) -> View:
    name = f"acceptance-by-method-t{temperature:g}"
    alt = f"Exact acceptance of each method by domain and scenario at temperature {temperature:g}"
    return View(name, alt, lambda tone: figures.by_method(rows, temperature, tone), rows)


def _by_size(rates: pd.DataFrame, scenario: str, temperature: float) -> View:
    name = f"acceptance-by-size-{scenario}-t{temperature:g}"
    alt = f"Exact acceptance against the number of training queries, {scenario}, temperature {temperature:g}"
    return View(name, alt, lambda tone: figures.by_size(rates, scenario, temperature, tone), rates)


def _curve(curve: pd.DataFrame, labels: dict[str, str], axis: str, temperature: float, of: str) -> View:
    name = f"curves-{of.replace(', ', '-')}-{axis}"
    alt = f"Exact acceptance on watched prompts while training by {learning_curve.AXES[axis]}, {of}"
    return View(name, alt, lambda tone: figures.curves(curve, labels, axis, temperature, tone, of), curve)


def _claim(finding: Finding, evaluated: HomeFindings, drawn: dict[str, str]) -> str:
    claim = finding.claim
    parts = [
        f"<h2>{_safe(f'{ordinal(claim.number)} {claim.title}')}</h2>",
        f"<p>{_safe(sentence(finding))} {_safe(claim.introduced)}</p>",
        f"<p><b>{_safe(finding.verdict)}</b>: {_safe(finding.reason)}.</p>",
        _list(findings_view.effort_lines(finding)),
    ]
    pooled = findings_view.pooled_table(claim, finding.outcomes)
    parts += [report.table(pooled)] if len(pooled) else []
    parts += [f'<p class="faint">{_safe(finding.fairness)}</p>'] if finding.fairness else []
    for outcome in finding.outcomes:
        if outcome.cells:
            parts.append(drawn.get(_name(finding, outcome.effort), ""))
            comparisons = findings_view.table(claim, outcome.cells)
            comparisons["runs"] = [", ".join(cell.runs) for cell in outcome.cells]
            effort = f", {outcome.effort}" if outcome.effort else ""
            parts.append(
                f"<details><summary>{len(comparisons)} comparisons and their runs{_safe(effort)}</summary>"
                f"{report.table(comparisons)}</details>"
            )
    study = evaluated.wanted[claim.key].study if undecided(finding) else None
    if study is not None:
        parts.append(
            f"<details><summary>The study that would decide it: {_safe(study.why)}</summary>"
            f"<pre>{_safe(study.text)}</pre></details>"
        )
    return "".join(parts)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_safe(line)}</li>' for line in lines)}</ul>" if lines else ""


def _safe(value: object) -> str:
    return html.escape(str(value), quote=True)


def main(arguments: Sequence[str]) -> int:
    """Write the report of this home to a file; errors on standard error, for the command that started this."""
    path, study = Path(arguments[0]), arguments[1] if len(arguments) > 1 else None
    try:
        evaluated = evaluate_home(home(), study)

        def load(run_ids: list[str]) -> pd.DataFrame:
            with reading(home().index) as con:
                return queries.curve(con, run_ids)

        text = whole(evaluated, acceptance.of_domains(acceptance.kept_rates(evaluated).frame), load, study)
        with disk_errors(path):
            write_atomic(path, text)
    except DraftbenchError as error:
        print(visible(f"{error.what}; {error.why}; {error.fix}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
