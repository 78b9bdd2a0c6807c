"""Speed on a CUDA device: one script, under eight minutes, no network, no package but Draftbench's own.

    python benchmarks/gpu.py --out gpu.json

Prints each row as it is measured and, at the end, a line per goal. The embedded model is used if it is in the asset
cache (`draftbench fetch` puts it there); otherwise random weights of its shape, for which every time is the same and
only what depends on acceptance is left out. A Llama of 8B shape is measured where the memory allows. On a machine
without CUDA the script says so and ends with status 2; `--device cpu --tiny` runs the same code on tiny random models
in a minute, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.speed.record import begin, busy_share
from benchmarks.speed.rows import Rows
from benchmarks.speed.session import goal_table, run
from engine.errors import DraftbenchError, did_you_mean

LIMIT_S = 440


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows; 0 if all were measured, 1 if some were not, 2 without a device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, written after every row")
    parser.add_argument("--rows", help="names separated by commas; without: all")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="begin no row that needs more than is left")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny random models: to try the script, not the machine")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("this machine has no CUDA device: `make bench` measures its processor", file=sys.stderr)
        return 2
    if given.device == "cpu" and not given.tiny:
        print("--device cpu goes with --tiny: `make bench` measures the processor", file=sys.stderr)
        return 2
    device = torch.device("cuda", 0) if given.device == "cuda" else torch.device("cpu")
    planned = Rows(device, tiny=given.tiny).planned()
    names = given.rows.split(",") if given.rows else list(planned)
    for name in names:
        if name not in planned:
            print(DraftbenchError(f"unknown row {name!r}", "", did_you_mean(name, planned)), file=sys.stderr)
            return 2
    report = begin("gpu", sys.argv[1:] if arguments is None else arguments, "tiny" if given.tiny else given.device)
    print(f"{busy_share():.0%} of the processors are in use before the first row", file=sys.stderr)
    report = run([planned[name] for name in names], report, given.out, limit_s=given.limit_s)
    print(goal_table(report.model_copy(update={"device": "cuda"})))
    return 1 if report.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
