"""What ten thousand runs cost: CPU time per run at the first indexing, and seconds to look at a home afterwards.

    python benchmarks/bench_index.py --runs 10000

The runs are copies of one measured sample run of full size: hard links to its files, each with its own status. A page
looks every few seconds whether the index still holds the runs as they are, and asks for the times of their folders
(`engine.index.changes.differences` says why that is enough); `draftbench runs` looks once, at every file. Both are
timed after no run and after one run has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.index.ingest import ingest_all
from engine.paths import Home
from engine.runs.listing import list_runs
from engine.runs.samples import sample_folders

_SETTLED_S = 2.5


def make_runs(home: Home, source: Path, count: int) -> None:
    """`count` runs that differ in id and status."""
    status = json.loads((source / "status.json").read_text())
    for number in range(count):
        folder = home.run(f"run-{number:05}")
        (folder / "measure").mkdir(parents=True)
        for path in (*source.iterdir(), *(source / "measure").iterdir()):
            if path.is_file() and path.name not in ("status.json", "log.txt"):
                os.link(path, folder / path.relative_to(source))
        own_status = {**status, "created_at": f"2026-01-{1 + number % 28:02}T10:00:{number % 60:02}+00:00"}
        (folder / "status.json").write_text(json.dumps(own_status))


def page_look(home: Home) -> None:
    """What a page does before it is drawn, at most every four seconds, where no run waits or is at work."""
    ingest_all(home, quick=True)


def change(run: Path) -> None:
    """Replace the run's status, as its own process would."""
    (run / "new").write_text((run / "status.json").read_text() + " ")
    os.replace(run / "new", run / "status.json")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark in a temporary home beside the samples, which hard links need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args(arguments)
    source = next(path for path in sample_folders() if (path / "measure" / "tokens.parquet").exists())
    with tempfile.TemporaryDirectory(prefix=".bench-index-", dir=source.parent.parent) as folder:
        home = Home(Path(folder))
        make_runs(home, source, 1)
        page_look(home)  # loads the libraries
        make_runs(Home(home.root / "more"), source, options.runs)
        os.rename(home.runs, home.root / "first")
        os.rename(home.root / "more" / "runs", home.runs)
        cpu, wall = timed(lambda: ingest_all(home))
        size = home.index.stat().st_size / 1e6
        print(
            f"{options.runs} runs like {source.name}: index of {size:.0f} MB, "
            f"{1e3 * cpu / options.runs:.1f} ms CPU per run",
            end="",
        )
        print(f" ({wall:.0f} s in all)")
        time.sleep(_SETTLED_S)  # folders are known by their times once these are older than the clock's tick
        page_look(home)
        looks = {"a page's look": lambda: page_look(home), "draftbench runs": lambda: list_runs(home)}
        for name, look in looks.items():
            print(f"{name}, nothing changed: {{:.2f}} s CPU, {{:.2f}} s".format(*timed(look)))
            change(home.run("run-00000"))
            print(f"{name}, one run changed: {{:.2f}} s CPU, {{:.2f}} s".format(*timed(look)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
