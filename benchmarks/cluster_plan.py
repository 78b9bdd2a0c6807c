"""What a large study costs on a cluster, from rates that were measured: worker-hours, days, disk, money.

    python benchmarks/cluster_plan.py
    python benchmarks/cluster_plan.py --capture-tokens-s 9000 --training-tokens-s 60000 --rest-s 40 --price 2.50

Plans 1,000 cells and 100 million captured tokens unless told otherwise. A cell costs what the finished cells of a study
cost: `first`, of which the sample runs hold the files, or one of your own home (`--home`, `--study`). A capture costs
what docs/performance/ says: gpu.json if there is one, else cpu.json. Every line says what its number rests on. Rates of
another machine are given by the options; nothing is scaled from one kind of machine to another.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import DraftbenchError
from engine.numbers import readable_bytes
from engine.paths import PROJECT_ROOT, Home
from engine.records.events import Ended, Started, read_events
from engine.records.labels import Labels
from engine.records.provenance import Provenance
from engine.records.study_tag import study_tag
from engine.records.training import Training
from engine.records.values import utc
from engine.runs.folder import run_folders
from engine.runs.samples import sample_folders

PERFORMANCE = PROJECT_ROOT / "docs" / "performance"
HOUR_S = 3600.0


@dataclass(frozen=True)
class Rate:
    """A number that a plan rests on, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class MeasuredCell:
    """What one finished cell took: target tokens seen in training, seconds of training, and seconds of the rest."""

    tokens: float
    training_s: float
    rest_s: float
    bytes_per_token: float
    machine: str


@dataclass(frozen=True)
class Plan:
    """Worker-seconds by part, and bytes on disk."""

    capture_s: float
    training_s: float
    rest_s: float
    capture_bytes: float

    @property
    def worker_s(self) -> float:
        return self.capture_s + self.training_s + self.rest_s

    def wall_s(self, workers: int, cell_s: float) -> float:
        """With the captures before the cells; a last cell that others do not share is the least that remains."""
        return self.capture_s / workers + max((self.training_s + self.rest_s) / workers, cell_s)


def plan(
    cells: int, captured_tokens: float, tokens_per_cell: float, rates: dict[str, Rate], bytes_per_token: float
) -> Plan:
    """The costs of a study. Rates: 'capture' and 'training' in tokens a second and worker, 'rest' in seconds a cell."""
    return Plan(
        captured_tokens / rates["capture"].value,
        cells * tokens_per_cell / rates["training"].value,
        cells * rates["rest"].value,
        captured_tokens * bytes_per_token,
    )


def measured_cells(folders: list[Path], study: str) -> list[MeasuredCell]:
    """The finished cells of a study that were worked on in one go."""
    cells = (measured_cell(folder) for folder in folders if study_tag(study) in Labels.read_or_empty(folder).tags)
    return [cell for cell in cells if cell is not None]


def measured_cell(folder: Path) -> MeasuredCell | None:
    """None if the run is not done, was resumed, or lacks a file."""
    training, provenance = Training.read_or_empty(folder), Provenance.read_or_empty(folder)
    events = read_events(folder).events
    began = [event.at for event in events if isinstance(event, Started)]
    ended = [event.at for event in events if isinstance(event, Ended) and event.state == "done"]
    if len(began) != 1 or not ended or not training.seconds or not training.tokens_seen:
        return None
    whole_s = (utc(ended[0]) - utc(began[0])).total_seconds()
    per_token = [capture.bytes_per_token for capture in provenance.captures.values() if capture.bytes_per_token]
    machine = provenance.machine
    where = "unknown machine"
    if machine:
        threads = f"{machine.threads} thread{'s' * (machine.threads != 1)}"
        where = ", ".join(machine.cuda) or f"{machine.processor}, {threads}"
    return MeasuredCell(
        training.tokens_seen, training.seconds, whole_s - training.seconds, max(per_token, default=0.0), where
    )


def capture_rate() -> Rate:
    """The rate of captures that was measured, of a GPU if one was. Raises DraftbenchError if none was."""
    for name in ("gpu.json", "cpu.json"):
        path = PERFORMANCE / name
        if path.exists():
            report = json.loads(path.read_text())
            for row in report["rows"]:
                if row["name"] == "capture":
                    machine = ", ".join(report["machine"]["cuda"]) or f"{report['machine']['cores']} cores, " + str(
                        report["machine"]["processor"]
                    )
                    return Rate(row["figures"]["ours"]["value"], f"docs/performance/{name}, row capture: {machine}")
    raise DraftbenchError("no rate of captures was measured", f"{PERFORMANCE} has none", "--capture-tokens-s")


def rates_of(given: argparse.Namespace, cells: list[MeasuredCell]) -> dict[str, Rate]:
    """The rates that were given, else those that were measured."""
    middle = f"median of {len(cells)} cells of {given.study}: {cells[0].machine}" if cells else ""
    measured = {
        "training": lambda: Rate(statistics.median(cell.tokens / cell.training_s for cell in cells), middle),
        "rest": lambda: Rate(statistics.median(cell.rest_s for cell in cells), f"{middle}; start and measurement"),
        "capture": capture_rate,
    }
    wanted = {"training": given.training_tokens_s, "rest": given.rest_s, "capture": given.capture_tokens_s}
    return {
        name: Rate(value, "given on the command line, not measured here") if value else measured[name]()
        for name, value in wanted.items()
    }


def figures(given: argparse.Namespace) -> dict[str, Any]:
    """The plan with all that it rests on. Raises DraftbenchError if a rate is neither given nor measured."""
    folders = [run.path for run in run_folders(Home(given.home))] if given.home else sample_folders()
    cells = measured_cells(folders, given.study)
    if not cells and not (given.training_tokens_s and given.rest_s and given.tokens_per_cell and given.bytes_per_token):
        raise DraftbenchError(
            f"no finished cell of a study {given.study!r}",
            "its training, measurement and size are what the plan is made from",
            "--study and --home name another; or give --training-tokens-s, --rest-s, --tokens-per-cell and "
            "--bytes-per-token",
        )
    rates = rates_of(given, cells)
    tokens = given.tokens_per_cell or statistics.median(cell.tokens for cell in cells)
    per_token = given.bytes_per_token or max(cell.bytes_per_token for cell in cells)
    made = plan(given.cells, given.captured_tokens, tokens, rates, per_token)
    cell_s = tokens / rates["training"].value + rates["rest"].value
    return {
        "cells": given.cells,
        "captured_tokens": given.captured_tokens,
        "tokens_per_cell": tokens,
        "bytes_per_token": per_token,
        "rates": {name: vars(rate) for name, rate in rates.items()},
        "worker_hours": {
            "captures": made.capture_s / HOUR_S,
            "training": made.training_s / HOUR_S,
            "start and measurement": made.rest_s / HOUR_S,
        },
        "capture_bytes": made.capture_bytes,
        "hours_by_workers": {workers: made.wall_s(workers, cell_s) / HOUR_S for workers in given.workers},
        "cost": given.price and made.worker_s / HOUR_S * given.price,
        "gpu_measured": (PERFORMANCE / "gpu.json").exists(),
    }


def text(made: dict[str, Any]) -> str:
    """The plan for people."""
    units = {"capture": "tokens/s", "training": "tokens/s", "rest": "s per cell"}
    lines = [
        f"{made['cells']:,} cells of {made['tokens_per_cell']:,.0f} target tokens each, "
        f"{made['captured_tokens']:,.0f} captured tokens",
        "",
        "rates per worker:",
        *(
            f"  {name:<9} {rate['value']:>10,.1f} {units[name]:<10} {rate['source']}"
            for name, rate in made["rates"].items()
        ),
        "",
        "worker-hours:",
        *(f"  {part:<22} {hours:>10,.1f}" for part, hours in made["worker_hours"].items()),
        f"  {'together':<22} {sum(made['worker_hours'].values()):>10,.1f}",
        "",
        f"captures: {readable_bytes(int(made['capture_bytes']))}, {made['bytes_per_token']:,.0f} bytes per token",
        *(
            f"{workers:>6,} {'worker: ' if workers == 1 else 'workers:'} {hours / 24:>8,.2f} days"
            for workers, hours in made["hours_by_workers"].items()
        ),
    ]
    if made["cost"]:
        lines.append(f"cost: {made['cost']:,.0f} at the price that was given per worker-hour")
    if not made["gpu_measured"]:
        lines += [
            "",
            "No rate of a GPU was measured yet (docs/performance/gpu.json is not there): `python "
            "benchmarks/gpu.py --out docs/performance/gpu.json` on a machine with one.",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the plan; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--captured-tokens", type=float, default=100e6)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64], help="cards, or machines without one")
    parser.add_argument("--price", type=float, help="of a worker-hour")
    parser.add_argument("--study", default="first", help="whose finished cells are the measure")
    parser.add_argument("--home", type=Path, help="where that study is; without: the sample runs")
    parser.add_argument("--tokens-per-cell", type=float, help="target tokens seen in training, epochs included")
    parser.add_argument("--bytes-per-token", type=float, help="of a capture's signal")
    parser.add_argument("--capture-tokens-s", type=float, help="per worker")
    parser.add_argument("--training-tokens-s", type=float, help="per worker")
    parser.add_argument("--rest-s", type=float, help="start and measurement of a cell, seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    given = parser.parse_args(arguments)
    if min([given.cells, given.captured_tokens, *given.workers]) <= 0:
        parser.error("--cells, --captured-tokens and --workers are counts above zero")
    try:
        made = figures(given)
    except DraftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(made, indent=2) if given.json else text(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
