"""How the index behaves when many processes write and read it at once.

    python benchmarks/bench_store.py --writers 8 --readers 20 --seconds 60

Writers repeatedly make a new run folder and index it. Readers open the index, list the runs, fetch metrics and prompts
of one, and check that no run is there only in part. At the end every run that was reported to a writer as indexed must
be there with all its rows. Prints counts and latencies (p50, p99), and exits with status 1 on any error, partial run or
lost row.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.config.reading import dump_recipe, parse_recipe
from engine.index import queries
from engine.index.connection import reading
from engine.index.ingest import ingest_run
from engine.paths import Home

PROMPTS, POSITIONS, STEPS = 24, 40, 100
WHOLE = {"metrics": 4, "curve": STEPS, "prompts": PROMPTS, "positions": PROMPTS * POSITIONS}
# Runs that lack rows of one of the tables: there must never be one, at any moment.
HALF_RUNS = " UNION ALL ".join(
    f"SELECT run_id FROM runs LEFT JOIN {table} USING (run_id) GROUP BY run_id HAVING count({table}.draft) <> {rows}"
    if table != "curve"
    else f"SELECT run_id FROM runs LEFT JOIN curve USING (run_id) GROUP BY run_id HAVING count(curve.step) <> {rows}"
    for table, rows in WHOLE.items()
)


@dataclass
class Outcome:
    """What one process did: seconds of each operation, ids of written runs, texts of errors."""

    role: str
    latencies_s: list[float] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def make_run(home: Home, run_id: str) -> Path:
    """A finished run of a usual shape: 24 prompts of 40 positions, 100 steps."""
    folder = home.run(run_id)
    (folder / "measure").mkdir(parents=True)
    recipe = parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})
    (folder / "config.yaml").write_text(dump_recipe(recipe))
    (folder / "status.json").write_text(json.dumps({"state": "done", "created_at": "2025-01-01T00:00:00Z"}))
    events = ({"kind": "train", "step": step, "loss": 1 / step, "seconds": step * 0.1} for step in range(1, STEPS + 1))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    key = {"draft": "trained", "temperature": 1.0}
    metrics = [{**key, "metric": f"metric-{number}", "value": 0.5} for number in range(WHOLE["metrics"])]
    (folder / "measure" / "summary.json").write_text(json.dumps({"metrics": metrics, "conditions": {}}))
    ids = [f"p{number}" for number in range(PROMPTS)]
    prompts = pd.DataFrame({**key, "prompt_id": ids, "group": "g", "exact_sum": 20.0, "n_positions": POSITIONS})
    prompts.to_parquet(folder / "measure" / "prompts.parquet")
    overlap = np.random.default_rng(0).random(PROMPTS * POSITIONS)
    positions = pd.DataFrame({**key, "prompt_id": np.repeat(ids, POSITIONS), "overlap": overlap})
    positions.to_parquet(folder / "measure" / "positions.parquet")
    return folder


def write(home: Home, name: str, until: float) -> Outcome:
    """Index new runs until the time is over."""
    outcome = Outcome("write")
    while time.time() < until:
        run_id = f"{name}-{len(outcome.written) + len(outcome.errors)}"
        folder = make_run(home, run_id)
        began = time.perf_counter()
        try:
            if not ingest_run(home.index, folder):
                raise RuntimeError(f"{run_id} is new, but was called unchanged")
        except Exception as error:
            outcome.errors.append(f"{name}: {type(error).__name__}: {error}")
        else:
            outcome.written.append(run_id)
            outcome.latencies_s.append(time.perf_counter() - began)
    return outcome


def read(home: Home, name: str, until: float) -> Outcome:
    """Query the index until the time is over; runs may come, but never go or be there by half."""
    outcome = Outcome("read")
    choose = random.Random(name)
    seen = 0
    while time.time() < until:
        began = time.perf_counter()
        try:
            seen = look(home, choose, seen)
        except Exception as error:
            outcome.errors.append(f"{name}: {type(error).__name__}: {error}")
        else:
            outcome.latencies_s.append(time.perf_counter() - began)
    return outcome


def look(home: Home, choose: random.Random, seen: int) -> int:
    """What a page does; returns how many runs there are."""
    with reading(home.index) as con:
        runs = queries.overview(con)
        half = half_runs(con)
        if len(runs):
            run_id = choose.choice(list(runs.run_id))
            queries.metrics(con, [run_id])
            queries.prompt_sums(con, [run_id])
    if half:
        raise RuntimeError(f"runs that are there by half: {half}")
    if len(runs) < seen:
        raise RuntimeError(f"{seen} runs were there, now {len(runs)}")
    return len(runs)


def half_runs(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Ids of runs that do not have all their rows."""
    return sorted({run_id for (run_id,) in con.execute(HALF_RUNS).fetchall()})


def work(job: tuple[str, str, Path, float]) -> Outcome:
    """One process: (role, name, home, when to end)."""
    role, name, root, until = job
    return (write if role == "write" else read)(Home(root), name, until)


def run(root: Path, writers: int, readers: int, seconds: float) -> list[Outcome]:
    """Start all processes and gather what they did."""
    until = time.time() + seconds
    jobs = [("write", f"w{number}", root, until) for number in range(writers)]
    jobs += [("read", f"r{number}", root, until) for number in range(readers)]
    # Fresh interpreters: a fork of a process that has used DuckDB would share its threads' locks.
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        return pool.map(work, jobs, chunksize=1)


def lost_rows(home: Home, written: list[str]) -> list[str]:
    """Runs that a writer was told are indexed, but are not, or not wholly."""
    with reading(home.index) as con:
        there = set(queries.overview(con).run_id)
        return sorted((set(written) - there) | set(half_runs(con)))


def latency(outcomes: list[Outcome], role: str) -> str:
    """Count and quantiles of one kind of operation, as a line of the report."""
    seconds = [second for outcome in outcomes if outcome.role == role for second in outcome.latencies_s]
    if not seconds:
        return f"{role}s: 0"
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return f"{role}s: {len(seconds)}, p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {max(seconds) * 1e3:.0f} ms"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark in a temporary home; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=8, help="processes that index new runs")
    parser.add_argument("--readers", type=int, default=20, help="processes that query")
    parser.add_argument("--seconds", type=float, default=60, help="how long, start of the processes included")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        home = Home(Path(folder))
        outcomes = run(home.root, options.writers, options.readers, options.seconds)
        lost = lost_rows(home, [run_id for outcome in outcomes for run_id in outcome.written])
        size = home.index.stat().st_size if home.index.exists() else 0
    errors = [error for outcome in outcomes for error in outcome.errors]
    idle = [outcome.role for outcome in outcomes if not outcome.latencies_s]
    print(f"{options.writers} writers, {options.readers} readers, {options.seconds:g} s, {os.cpu_count()} cores")
    print(latency(outcomes, "write"))
    print(latency(outcomes, "read"))
    print(f"processes without a turn: {len(idle)}, index: {size / 2**20:.1f} MiB")
    print(f"errors: {len(errors)}, lost or half runs: {len(lost)}")
    print("\n".join(errors[:10] + lost[:10]), end="")
    return 1 if errors or lost else 0


if __name__ == "__main__":
    sys.exit(main())
