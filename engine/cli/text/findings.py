"""What `draftbench findings` says in a terminal, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.cli.text import console
from engine.numbers import number

_Claim = Mapping[str, Any]
EMPTY = "no finished run to compare yet"
EMPTY_FIX = "`draftbench runs samples` lays in those that come with Draftbench; `draftbench run recipes/quickstart.yaml` makes one"


def findings(found: Mapping[str, Any]) -> None:
    """Each claim's verdict, effect and cells, then what would decide it."""
    if not found["runs_compared"]:
        console.line(EMPTY + _left_out(found))
        console.line(EMPTY_FIX)
        return
    console.line(summary(found))
    for claim in found["claims"]:
        console.line("")
        _claim(claim)


def summary(found: Mapping[str, Any]) -> str:
    """How many runs took part and what is compared."""
    of = f" of the study {found['study']}" if found["study"] else ""
    return (
        f"{found['runs_compared']} runs{of} took part{_left_out(found)}; {found['metric']}; {found['interval']}; "
        f"{found['seeds_needed']} seeds are needed before anything is called reproduced"
    )


def _left_out(found: Mapping[str, Any]) -> str:
    gone = [f"{count} {reason}" for reason, count in found["left_out"].items() if count]
    return f" (left out: {', '.join(gone)})" if gone else ""


def _claim(claim: _Claim) -> None:
    console.line(f"{heading(claim)}: {claim['verdict'].upper()}")
    console.paragraph(f"{claim['statement']} {claim['reason'][:1].upper()}{claim['reason'][1:]}.", indent=2)
    rows = effect_rows(claim)
    if rows:
        console.table(
            "", ("", claim["base"], claim["other"], "relative", "absolute", "seeds", "prompts", "by itself"), rows
        )
    study = claim["would_decide"]
    if study is not None:
        console.paragraph(
            f"Would decide it: {study['why']} (about {study['new_runs']} runs; --json has the recipe).", indent=2
        )
        for line in study["commands"]:
            console.line(f"    {line}")


def heading(claim: _Claim) -> str:
    """'3. White box beats black box', or 'Also: ...' for what the paper says besides."""
    return f"{claim['number']}. {claim['title']}" if claim["number"].isdigit() else f"Also: {claim['title']}"


def effect_rows(claim: _Claim) -> list[list[str]]:
    """A row for all places together, one a domain; and the same for each kind of effort where there are several."""
    outcomes = claim.get("by_effort") or [{**claim, "effort": ""}]
    return [row for outcome in outcomes for row in _outcome_rows(outcome)]


def _outcome_rows(outcome: Mapping[str, Any]) -> list[list[str]]:
    if outcome["headline"] is None:
        return [[outcome["effort"], "", "", "", "", "0", "0", outcome["verdict"]]] if outcome["effort"] else []
    first = outcome["effort"] or "all places together"
    rows = [_row(first, outcome["headline"])]
    domains = outcome["by_domain"]
    return rows + ([_row(f"  {name}", pooled) for name, pooled in domains.items()] if len(domains) > 1 else [])


def _row(name: str, pooled: Mapping[str, Any]) -> list[str]:
    return [
        name,
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


def markdown(found: Mapping[str, Any]) -> str:
    """The same for a document: a table of verdicts, then each claim with its effects."""
    lines = [summary(found) + ".", "", "| | claim | verdict | relative | absolute | why |", "|---|---|---|---|---|---|"]
    for claim in found["claims"]:
        whole = claim["headline"] or {"relative": None, "absolute": None}
        cells = [
            claim["number"],
            claim["title"],
            claim["verdict"],
            percent(whole["relative"]),
            points(whole["absolute"]),
            claim["reason"],
        ]
        lines.append(_table_line(cells))
    for claim in found["claims"]:
        lines += [
            "",
            f"## {heading(claim)}",
            "",
            f"{claim['statement']} {_banded(claim)}**{claim['verdict']}**: {claim['reason']}.",
        ]
        rows = effect_rows(claim)
        if rows:
            head = ["", claim["base"], claim["other"], "relative", "absolute", "seeds", "prompts", "by itself"]
            lines += ["", _table_line(head), "|" + "---|" * len(head), *map(_table_line, rows)]
    return "\n".join(lines) + "\n"


def _banded(claim: _Claim) -> str:
    return "" if claim["paper_band"] is None else "Whether relative or absolute percent is meant is not stated. "


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
