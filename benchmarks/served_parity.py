"""Drafts on the real llama-server and the real vLLM, beside what was predicted before the servers were started.

    draftbench served setup llama.cpp && draftbench served setup vllm && draftbench data fetch --all
    python benchmarks/served_parity.py --out parity.json                        # all, as long as it takes
    python benchmarks/served_parity.py --out parity.json --minutes 60           # the rest at another time
    python benchmarks/served_parity.py --out parity.json --servers llama.cpp --domains biology --prompts 20

For each server and domain it serves the sample run serve-DOMAIN with its target, sends the held-out prompts at
temperatures 0 and 1, and compares (`draftbench served parity`). Answers are kept beside the output, in
parity.answers.jsonl: a second call asks only for the rest, also after an interruption. --minutes is shared out over
what is left. Prints a table and writes the reports as JSON; exits with status 1 if a rate lies outside its predicted
interval. The speeds are of this machine: leave it alone meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.cli.text import console
from engine.cli.text import parity as text
from engine.deploy.parity import KINDS, ParityOptions, parity
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import write_json
from engine.numbers import number
from engine.paths import Home, home
from engine.progress import Progress
from engine.records.parity import ParityReport
from engine.runs.folder import RunFolder
from engine.runs.samples import lay_out_samples

DOMAINS = {"function_calling": "serve-function-calling", "biology": "serve-biology", "chinese": "serve-chinese"}


def main() -> None:
    """Measure all cells that were asked for, those of the fast server first."""
    options = parsed()
    lay_out_samples(home())
    answers = options.out.with_suffix(".answers.jsonl")
    cells = [(server, domain) for server in options.servers for domain in options.domains]
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    reports: dict[str, ParityReport] = {}
    for left, (server, domain) in zip(range(len(cells), 0, -1), cells, strict=True):
        minutes = None if until is None else max(0.0, until - time.monotonic()) / 60 / left
        asked = ParityOptions(
            prompts=options.prompts,
            temperatures=(0.0, 1.0),
            gamma=options.gamma,
            timed=options.timed,
            program=options.program,
            answers=answers,
            minutes=minutes,
        )
        reports[f"{server} {domain}"] = parity(home(), sample(home(), DOMAINS[domain]), server, asked, Progress())
        write_json(options.out, {name: report.document() for name, report in reports.items()})
        console.line(f"\n{domain}")
        text.report(reports[f"{server} {domain}"])
    console.line("")
    table(reports)
    if not all(row.agrees for report in reports.values() for row in report.rows):
        sys.exit(1)


def sample(own: Home, name: str) -> RunFolder:
    """The sample run whose id begins with the name."""
    return RunFolder.open(own, name)


def table(reports: dict[str, ParityReport]) -> None:
    """A line for every server, domain, temperature and rule."""
    columns = [
        "server",
        "domain",
        "T",
        "proposals",
        "prompts",
        "predicted",
        "served",
        "inside",
        "explained",
        "speed-up",
    ]
    rows: list[Sequence[str]] = []
    for name, report in reports.items():
        for row in report.rows:
            speed = f"{console.rate(row.speedup)}, {number(row.predicted_speedup, 2)} predicted" if row.speedup else "-"
            explained = "-" if row.explained is None else f"{row.explained} of {row.prompts}"
            rows.append(
                [
                    *name.split(),
                    f"{row.temperature:g}",
                    row.proposals,
                    str(row.prompts),
                    console.rate(row.predicted),
                    console.rate(row.served),
                    {True: "yes", False: "NO", None: "-"}[row.agrees],
                    explained,
                    speed,
                ]
            )
    console.table("accepted over proposed tokens", columns, rows)


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--servers", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--domains", nargs="+", choices=list(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--prompts", type=int, default=None, help="held-out prompts of a domain; default: all 60")
    parser.add_argument("--gamma", type=int, default=3)
    parser.add_argument("--timed", type=int, default=12, help="prompts timed with and without the draft")
    parser.add_argument("--minutes", type=float, default=None, help="begin no request later than this")
    parser.add_argument("--program", type=Path, default=None, help="of the only server, if setup did not install it")
    options = parser.parse_args()
    if options.program is not None and len(options.servers) != 1:
        parser.error("--program needs one server: add --servers")
    return options


if __name__ == "__main__":
    try:
        main()
    except DraftbenchError as error:
        console.print_error(error)
        sys.exit(2)
    except (Cancelled, KeyboardInterrupt):
        console.line("stopped: finished answers are kept, and the same command continues")
        sys.exit(130)
