"""Speed on this machine's processor, beside what people would use instead. `make bench` runs it.

    python benchmarks/bench.py --out bench.json
    python benchmarks/bench.py --rows training --baseline ../before --trl ~/trl --out training.json
    python benchmarks/bench.py --set-up trl             # the commands that make the environment of --trl

Every figure is a ratio of ways that took turns in one run on the same weights, prompts, dtype, threads and counts,
with a 95% interval over the rounds. Without --rows everything but the quickstart is measured, in about 15 minutes on
two cores; the quickstart takes its five minutes once more. The machine must be idle. `--baseline` names another
checkout of Draftbench; `--trl` and `--vllm` name environments of their own. `python benchmarks/report.py` makes
docs/performance.md from the JSON.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.speed.peers import SET_UP, set_up
from benchmarks.speed.record import begin
from benchmarks.speed.rows import Rows
from benchmarks.speed.session import goal_table, refuse_busy, run
from engine.errors import DraftbenchError, did_you_mean

ONLY_ASKED = {"quickstart"}


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows; 0 if all were measured, 1 if some were not, 2 for an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="names separated by commas; without: all but the quickstart")
    parser.add_argument("--out", type=Path, help="JSON file, written after every row")
    parser.add_argument("--baseline", type=Path, help="another checkout: rows before, capture, training, start")
    parser.add_argument("--trl", type=Path, help="environment with TRL, for the row training")
    parser.add_argument("--vllm", type=Path, help="environment with vLLM, for the rows decode and capture")
    parser.add_argument("--rounds", type=int, help="turns of each way at most")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; disturbed rows are marked")
    parser.add_argument("--set-up", choices=sorted(SET_UP), help="print how an environment is made, and end")
    given = parser.parse_args(arguments)
    if given.set_up:
        print(set_up(given.set_up))
        return 0
    try:
        places = {
            name: None if path is None else path.resolve() for name, path in vars(given).items() if name in _PLACES
        }
        planned = Rows(torch.device("cpu"), tiny=False, rounds=given.rounds, **places).planned()
        names = given.rows.split(",") if given.rows else [name for name in planned if name not in ONLY_ASKED]
        for name in names:
            if name not in planned:
                raise DraftbenchError(f"unknown row {name!r}", "", did_you_mean(name, planned))
        if not given.anyway:
            refuse_busy()
    except DraftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    report = begin("bench", sys.argv[1:] if arguments is None else arguments, "cpu")
    report = run([planned[name] for name in names], report, given.out)
    print(goal_table(report))
    return 1 if report.skipped else 0


_PLACES = ("baseline", "trl", "vllm")

if __name__ == "__main__":
    sys.exit(main())
