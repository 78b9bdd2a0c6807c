"""Does a cell of the shipped study give the same result when it is run again?

    python benchmarks/rerun_cell.py --home /some/empty/folder --seed 5

Picks one of the study's shipped runs at random, prints the command that made it, runs its resolved recipe
(`config.yaml`) in an empty home, including its captures, and compares: at each temperature the new rate of the trained
draft must lie within the shipped run's 95% interval. Exits with status 1 if it does not. Needs `draftbench data fetch
--all`; takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.paths import PROJECT_ROOT, Home
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder, run_folders
from engine.runs.samples import SAMPLES


def exact(run: RunFolder) -> dict[float, tuple[float, float, float]]:
    """Temperature -> rate of the trained draft and its interval."""
    return {m.temperature: (m.value, m.low, m.high) for m in run.summary().of("trained", "exact")}


def again(run: RunFolder, home: Home) -> RunFolder:
    """The run's recipe, run in that home."""
    arguments = [sys.executable, "-m", "engine", "run", str(run.path / "config.yaml")]
    subprocess.run(arguments, check=True, cwd=PROJECT_ROOT, env={**os.environ, "DRAFTBENCH_HOME": str(home.root)})
    return run_folders(home)[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--home", type=Path, required=True, help="an empty folder")
    arguments.add_argument("--seed", type=int, default=0, help="which cell is picked")
    arguments.add_argument("--study", default="first", help="its runs' names begin with it")
    given = arguments.parse_args()
    cells = sorted(SAMPLES.glob(f"{given.study}-*/config.yaml"))
    if not cells:
        sys.exit(f"no runs of the study {given.study} in {SAMPLES}")
    shipped = RunFolder(random.Random(given.seed).choice(cells).parent)
    command = shlex.join(Provenance.read_or_empty(shipped.path).command)
    print(f"one of {len(cells)} cells: {shipped.id}\nmade with: {command}")
    before, now = exact(shipped), exact(again(shipped, Home(given.home.absolute())))
    inside = True
    for temperature, (value, low, high) in before.items():
        inside &= low <= now[temperature][0] <= high
        print(f"T={temperature:g}: shipped {value:.4f} [{low:.4f}, {high:.4f}], again {now[temperature][0]:.4f}")
    print("within the interval" if inside else "OUTSIDE the interval")
    sys.exit(0 if inside else 1)


if __name__ == "__main__":
    main()
