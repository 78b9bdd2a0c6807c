"""Write docs/performance.md from the JSON of `make bench` and benchmarks/gpu.py.

    python benchmarks/report.py                     # from docs/performance/*.json
    python benchmarks/report.py bench.json gpu.json

The newest row of each name counts. The notes on why a goal is missed are written by hand in
docs/performance/notes.yaml, keyed by device, row and figure; all numbers come from the JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed.goals import Judged, judged
from benchmarks.speed.record import Report, Row, read
from benchmarks.speed.session import number_of, shown, verdict_of
from engine.paths import PROJECT_ROOT
from engine.untrusted.yaml_text import read_yaml

PAGE = PROJECT_ROOT / "docs" / "performance.md"
FOLDER = PROJECT_ROOT / "docs" / "performance"
DEVICES = {"cpu": "On a processor", "cuda": "On a GPU"}

INTRODUCTION = """# Performance

Made by `python benchmarks/report.py` from the JSON in docs/performance/. `make bench` measures on a processor,
`python benchmarks/gpu.py` on a CUDA device.

Every figure is a ratio of ways that took turns in one run, with the same weights, prompts, dtype, threads and counts;
brackets hold 95% intervals from a bootstrap over the rounds. A goal counts as met by its value; where the interval
reaches beyond the goal, the table says so. Rows taken while other programs used more than 5% of the machine are marked.
"""


def page(reports: Sequence[Report], notes: Mapping[str, str]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for device, heading in DEVICES.items():
        own = [report for report in reports if report.device == device]
        parts.append(f"## {heading}\n")
        parts.append(_section(own, device, notes) if own else "Not measured yet.\n")
    return "\n".join(parts)


def _section(reports: Sequence[Report], device: str, notes: Mapping[str, str]) -> str:
    lines = judged(reports, device)
    missed = [one for one in lines if one.verdict == "missed" and _note(one, notes)]
    why = [f"- **{one.goal.work}**: {_note(one, notes)}" for one in missed]
    rows = newest_rows(reports)
    return "\n".join(
        [
            *("| goal | bound | measured |", "|---|---|---|"),
            *(f"| {one.goal.work} | {one.goal.in_words} | {verdict_of(one)} |" for one in lines),
            "",
            *(["Why goals are missed:", "", *why, ""] if why else []),
            "### Figures\n",
            *(_figures(*rows[name]) for name in rows),
        ]
    )


def newest_rows(reports: Sequence[Report]) -> dict[str, tuple[Report, Row]]:
    """The newest row of each name, with the report it is from."""
    return {row.name: (report, row) for report in sorted(reports, key=lambda r: r.began) for row in report.rows}


def _figures(report: Report, row: Row) -> str:
    mark = ""
    if row.company is not None and row.company.disturbed:
        mark = f" **Disturbed:** other programs used {row.company.others + row.company.stolen:.0%} of the machine."
    plain = {key: value for key, value in row.conditions.items() if not isinstance(value, (dict, list))}
    conditions = ", ".join(
        f"{key} {number_of(value) if isinstance(value, float) else value}" for key, value in plain.items()
    )
    counts = max((len(listed) for listed in row.samples.values()), default=1)
    rounds = f"{counts} round{'s' * (counts != 1)}"
    return "\n".join(
        [
            f"**{row.title}** (`{row.name}`; {conditions}; {rounds}; {_where(report)}).{mark}\n",
            *("| figure | |", "|---|---|"),
            *(f"| {name} | {shown(figure)} |" for name, figure in row.figures.items()),
            *(f"\n{note}" for note in row.notes),
            "",
        ]
    )


def _where(report: Report) -> str:
    cards = report.machine.get("cuda") or []
    machine = (
        cards[0] if cards else f"{report.machine.get('processor', 'processor')}, {report.machine.get('cores')} cores"
    )
    commit = f"commit {report.commit[:7]}{' with changes' if report.changed else ''}" if report.commit else "no commit"
    return f"{machine}, {commit}, torch {report.versions['torch']}, Transformers {report.versions['transformers']}"


def _note(one: Judged, notes: Mapping[str, str]) -> str:
    return notes.get(f"{one.goal.device} {one.goal.row} {one.goal.figure}", "")


def read_notes(path: Path) -> dict[str, str]:
    """Notes by 'device row figure', each in one line."""
    loaded: dict[str, Any] = read_yaml(path) if path.is_file() else {}
    return {key: " ".join(str(text).split()) for key, text in (loaded or {}).items()}


def main(arguments: list[str] | None = None) -> int:
    """Write the page."""
    given = sys.argv[1:] if arguments is None else arguments
    paths = [Path(name) for name in given] or sorted(FOLDER.glob("*.json"))
    PAGE.write_text(page([read(path) for path in paths], read_notes(FOLDER / "notes.yaml")), encoding="utf-8")
    print(f"{PAGE.relative_to(PROJECT_ROOT)}: from {len(paths)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
