"""Findings as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.cli.text import console
from engine.cli.text.summary import servers
from engine.findings.claim import ordinal
from engine.findings.words import at_words
from engine.numbers import number

_Claim = Mapping[str, Any]
EMPTY = "there is no finished run to compare yet"
EMPTY_FIX = (
    "`draftbench runs samples` adds those that come with Draftbench; `draftbench run recipes/quickstart.yaml` makes one"
)


def findings(report: Mapping[str, Any]) -> None:
    """Print each claim's verdict and effects, and the study that would decide it."""
    if not report["runs_compared"]:
        console.line(EMPTY + _left_out(report))
        console.line(EMPTY_FIX)
        return
    console.line(summary(report))
    for claim in report["claims"]:
        console.line("")
        _claim(claim)
    console.line("")
    servers()


def summary(report: Mapping[str, Any]) -> str:
    """State how many runs take part and what is compared."""
    study = f" of the study {report['study']}" if report["study"] else ""
    others = [f"{claim['number']} by {claim['rate']}" for claim in report["claims"] if claim["rate"] != "exact"]
    metric = "; ".join([report["metric"], *(f"claim {other}" for other in others)])
    samples = f", {report['samples']} of them samples that were measured elsewhere" if report["samples"] else ""
    return (
        f"{report['runs_compared']} runs{study} take part{samples}{_left_out(report)}; {metric}; "
        f"{report['interval']}; nothing is called reproduced with fewer than {report['seeds_needed']} seeds"
    )


def _left_out(report: Mapping[str, Any]) -> str:
    counts = [f"{count} {reason}" for reason, count in report["left_out"].items() if count]
    return f" (left out: {', '.join(counts)})" if counts else ""


def _claim(claim: _Claim) -> None:
    console.line(f"{heading(claim)}: {claim['verdict'].upper()}")
    console.paragraph(f"{claim['statement']} {claim['reason'][:1].upper()}{claim['reason'][1:]}.", indent=2)
    rows = effect_rows(claim)
    if rows:
        console.table(
            "", ("", "T", claim["base"], claim["other"], "relative", "absolute", "seeds", "prompts", "on its own"), rows
        )
    if claim["fairness"]:
        console.paragraph(claim["fairness"], indent=2)
    study = claim["would_decide"]
    if study is not None:
        console.paragraph(
            f"What would decide it: {study['why']} (about {study['new_runs']} runs; --recipe {claim['key']} prints "
            "the recipe).",
            indent=2,
        )
        for line in study["commands"]:
            console.line(f"    {line}")


def heading(claim: _Claim) -> str:
    """'3. White box beats black box', or 'Also: ...' for a statement that the paper does not number."""
    return f"{ordinal(claim['number'])} {claim['title']}"


def effect_rows(claim: _Claim) -> list[list[str]]:
    """A row for all cells together, one per temperature and one per domain, for each kind of effort if several."""
    outcomes = claim.get("by_effort") or [{**claim, "effort": ""}]
    return [row for outcome in outcomes for row in _outcome_rows(outcome)]


def _outcome_rows(outcome: Mapping[str, Any]) -> list[list[str]]:
    if outcome["headline"] is None:
        return [[outcome["effort"], "", "", "", "", "", "0", "0", outcome["verdict"]]] if outcome["effort"] else []
    rows = [_row(outcome["effort"] or "all cells together", outcome["headline"])]
    for parts in (outcome["by_temperature"], outcome["by_domain"]):
        names = [f"  T = {name} alone" if parts is outcome["by_temperature"] else f"  {name}" for name in parts]
        rows += [_row(*one) for one in zip(names, parts.values(), strict=True)] if len(parts) > 1 else []
    return rows


def _row(name: str, pooled: Mapping[str, Any]) -> list[str]:
    return [
        name,
        at_words(pooled["temperatures"]),
        number(pooled["base_rate"]),
        number(pooled["other_rate"]),
        percent(pooled["relative"]),
        points(pooled["absolute"]),
        str(pooled["seeds"]),
        str(pooled["n_prompts"]),
        pooled["verdict"],
    ]


def percent(interval: Mapping[str, Any] | None) -> str:
    """'+4.1% [+2.0%, +6.3%]', or a dash where there is no ratio."""
    return "-" if interval is None else _ranged(interval, "+.1%")


def points(interval: Mapping[str, Any] | None) -> str:
    """'+0.012 [+0.006, +0.019]': a difference of acceptances."""
    return "-" if interval is None else _ranged(interval, "+.3f")


def _ranged(interval: Mapping[str, Any], form: str) -> str:
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None or value != value:
        return "-"
    if any(end is None or end != end for end in (low, high)):
        return format(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def markdown(report: Mapping[str, Any]) -> str:
    """A Markdown document: a table of verdicts, then each claim with its effects."""
    lines = [
        summary(report) + ".",
        "",
        "| | claim | verdict | T | relative | absolute | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in report["claims"]:
        whole = claim["headline"] or {"temperatures": [], "relative": None, "absolute": None}
        cells = [
            claim["number"],
            claim["title"],
            claim["verdict"],
            at_words(whole["temperatures"]),
            percent(whole["relative"]),
            points(whole["absolute"]),
            claim["reason"],
        ]
        lines.append(_table_line(cells))
    for claim in report["claims"]:
        lines += [
            "",
            f"## {heading(claim)}",
            "",
            f"{claim['statement']} {_banded(claim)}**{claim['verdict']}**: {claim['reason']}.",
        ]
        rows = effect_rows(claim)
        if rows:
            head = ["", "T", claim["base"], claim["other"], "relative", "absolute", "seeds", "prompts", "on its own"]
            lines += ["", _table_line(head), "|" + "---|" * len(head), *map(_table_line, rows)]
    return "\n".join(lines) + "\n"


def _banded(claim: _Claim) -> str:
    if claim["paper_band"] is None:
        return ""
    if claim["paper_band"]["meant"] == "relative":
        return "The paper states a ratio, so the relative effect is judged. "
    return "The paper does not say whether it means relative or absolute percent. "


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
