"""Adapters beside drafts of which all weights were trained: size on disk, trained weights, acceptance, training time.

    python benchmarks/lora_drafts.py                   # the runs of recipes/studies/lora.yaml in this home
    python benchmarks/lora_drafts.py FULL LORA LORA    # any runs: the first is what the others are compared with

A Markdown table, a row per draft. `exact` has its 95% interval over prompts; the difference to the draft of the same
domain whose weights were all trained is paired by prompt on the same target text. The training's time is that of its
optimiser steps; times of runs that shared the machine with other work say nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import DraftbenchError
from engine.measure.compare import compare
from engine.numbers import interval, number
from engine.paths import PROJECT_ROOT, Home, home
from engine.records.interval import Interval
from engine.runs.compare_runs import measurement_of
from engine.runs.draft_size import draft_size
from engine.runs.folder import RunFolder
from engine.study.cells import expand
from engine.study.spec import load_study
from engine.study.state import look

STUDY = PROJECT_ROOT / "recipes" / "studies" / "lora.yaml"
COLUMNS = (
    "draft",
    "MB",
    "trained weights",
    "training, s",
    "exact T=0",
    "less all weights",
    "exact T=1",
    "less all weights",
)


def runs_of_study(where: Home) -> tuple[list[list[RunFolder]], list[str]]:
    """The finished runs of the study by domain, that with all weights first; and the cells without one."""
    domains: dict[str, list[RunFolder]] = {}
    missing = []
    placed = look(where, expand(load_study(STUDY), where).cells)
    for one in sorted(placed, key=lambda one: (one.cell.labels["domain"], one.cell.labels["draft"])):
        if one.state == "done" and one.run is not None:
            domains.setdefault(one.cell.labels["domain"], []).append(one.run)
        else:
            missing.append(f"{one.cell.name} ({one.state})")
    return list(domains.values()), missing


def row(run: RunFolder, full: RunFolder) -> list[str]:
    """The line of a draft; `full`: the run of the same domain with all weights trained."""
    size, summary = draft_size(run), run.summary()
    cells = [
        run.id.rsplit("-", 3)[0],
        number(size.megabytes, 1),
        "-" if size.trained_parameters is None else f"{size.trained_parameters:,}",
        number(size.training_seconds, 0),
    ]
    differences = {}
    if run.id != full.id:
        rows = compare(measurement_of(full), measurement_of(run), ["exact"])
        differences = {one.temperature: one.difference for one in rows if one.comparable}
    for temperature in (0.0, 1.0):
        values = [metric for metric in summary.of("trained", "exact") if metric.temperature == temperature]
        cells.append(interval(Interval(values[0].value, values[0].low, values[0].high)) if values else "-")
        cells.append(interval(differences[temperature]) if temperature in differences else "")
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if there is no run for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="runs of one domain, the one with all weights trained first")
    given = parser.parse_args(arguments).runs
    try:
        groups, missing = ([[RunFolder.open(home(), name) for name in given]], []) if given else runs_of_study(home())
        lines = [row(run, group[0]) for group in groups for run in group]
        shared = {size for group in groups for run in group if (size := draft_size(run).shared_megabytes)}
    except DraftbenchError as error:
        print(error.what, error.why, error.fix, sep="\n  ", file=sys.stderr)
        return 1
    for cells in (COLUMNS, ["---"] * len(COLUMNS), *lines):
        print(f"| {' | '.join(cells)} |")
    if shared:
        print("\nshared draft, on disk once: " + ", ".join(f"{size:.1f} MB" for size in sorted(shared)))
    if missing:
        print(f"not measured yet: {', '.join(missing)}")
    return 0 if lines else 1


if __name__ == "__main__":
    sys.exit(main())
