"""How long the server takes to draw the pages of a home with many runs.

    python benchmarks/bench_ui.py --runs 1000 --tokens 2000000

Makes a home of that many runs from the sample runs (their own tables, cut to the requested number of token rows),
indexes it, and draws pages with Streamlit's AppTest: from script start to script end, in this process, without a
browser. The first drawing is reported as `cold`, the following ones as `warm`, each after the caches have expired, as
for a visitor who comes now and then; `cpu_s` is the processor time of a warm one, on all threads. A home given by
--home is kept and used again. Prints JSON; exits with status 1 if a page takes more than 1 s when warm, or with more
than 1,000 runs more than 2 s.

    python benchmarks/bench_ui.py --runs 10000 --tokens 2000000 --pages runs,home --profile /tmp/profile
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.fileio import read_json
from engine.index.connection import reading
from engine.index.ingest import ingest_all
from engine.paths import PROJECT_ROOT, Home
from engine.runs.samples import sample_folders
from workbench.shared.pages import PAGES

LIMIT_S, LIMIT_OF_MANY_S = 1.0, 2.0  # to draw a page warm; with more than a thousand runs
EXPIRED_S = 4.5  # after which the index is looked at again
LOSSES = ("forward_kl", "reverse_kl", "jsd", "tvd", "lk_hybrid", "sft")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--tokens", type=int, default=2_000_000, help="rows of the tokens table in all")
    arguments.add_argument("--repeats", type=int, default=7, help="warm drawings of each page")
    arguments.add_argument("--home", type=Path, help="keep the store here, and use it again")
    arguments.add_argument("--pages", default="", help="only these, with commas between")
    arguments.add_argument("--profile", type=Path, help="a folder for a cProfile file of a warm drawing of each page")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Home((given.home or Path(scratch)).absolute())
        os.environ |= {"DRAFTBENCH_HOME": str(home.root), "DRAFTBENCH_SAMPLES": "0"}
        began = time.perf_counter()
        fill(home, given.runs, given.tokens)
        report: dict[str, Any] = {"filled_s": round(time.perf_counter() - began, 1), **contents(home)}
        shown = {name: params for name, params in views(home).items() if name in (given.pages or name).split(",")}
        report["pages"] = {name: timed(name, params, given.repeats, given.profile) for name, params in shown.items()}
    limit = LIMIT_S if given.runs <= 1000 else LIMIT_OF_MANY_S
    slow = [name for name, seconds in report["pages"].items() if seconds["warm_s"] > limit]
    print(json.dumps({**report, "limit_s": limit, "too_slow": slow}, indent=2))
    sys.exit(bool(slow))


def fill(home: Home, runs: int, tokens: int) -> None:
    """Run folders made of the sample runs, each under a name, a loss and a seed of its own, and the index of them."""
    with tempfile.TemporaryDirectory(dir=made_in(home)) as scratch:
        tables = (pd.read_parquet(path / "measure" / "tokens.parquet") for path in sample_folders())
        table = next(table for table in tables if len(table))  # most samples came without their traces
        templates = [cut(template, Path(scratch), table, tokens // runs) for template in sample_folders()]
        for number in range(runs):
            place = home.run(f"bench-{number:04d}")
            if not place.exists():
                copy_run(templates[number % len(templates)], place, number)
    ingest_all(home)


def made_in(home: Home) -> Path:
    home.runs.mkdir(parents=True, exist_ok=True)
    return home.root


def cut(template: Path, scratch: Path, table: pd.DataFrame, tokens: int) -> Path:
    """The template without weights, with `tokens` rows of that trace."""
    folder = scratch / template.name
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("draft", "checkpoints"))
    path = folder / "measure" / "tokens.parquet"
    pd.concat([table] * (tokens // len(table) + 1), ignore_index=True).head(tokens).to_parquet(path, index=False)
    return folder


def copy_run(template: Path, place: Path, number: int) -> None:
    """A run of its own name, loss, seed and day. Its other files are links to the template's."""
    shutil.copytree(template, place, copy_function=os.link)
    config, status = read_yaml(template / "config.yaml"), read_json(place / "status.json")
    train = config["train"] | {"seed": number, "loss": [{"name": LOSSES[number % len(LOSSES)]}]}
    own = {
        "config.yaml": yaml.dump({**config, "name": place.name, "train": train}, Dumper=yaml.CSafeDumper),
        "status.json": json.dumps({**status, "created_at": f"2026-01-{1 + number % 28:02d}T10:00:00+00:00"}),
    }
    for name, text in own.items():
        (place / name).unlink()
        (place / name).write_text(text, encoding="utf-8")


@functools.cache
def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def contents(home: Home) -> dict[str, int]:
    """Runs and rows of per-prompt sums in the index, and rows of tokens in the run folders."""
    with reading(home.index) as con:
        counts = {name: con.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("runs", "prompts")}
    rows = (pq.read_metadata(path).num_rows for path in home.runs.glob("*/measure/tokens.parquet"))
    return {**{name: int(row[0]) if row else 0 for name, row in counts.items()}, "tokens": sum(rows)}


def views(home: Home) -> dict[str, dict[str, Any]]:
    """The pages that are drawn, with their parameters: six runs of one domain for Compare."""
    with reading(home.index) as con:
        rows = con.execute("SELECT run_id FROM runs WHERE domain = 'biology' ORDER BY run_id LIMIT 6").fetchall()
    six = [run_id for (run_id,) in rows]
    every = {
        "home": {},
        "runs": {},
        "compare": {"runs": six},
        "findings": {},
        "explorer": {"alike": "all"},
        "run": {"run": six[0]},
    }
    return {name: params for name, params in every.items() if name in PAGES}


def timed(name: str, params: dict[str, Any], repeats: int, profile: Path | None) -> dict[str, float]:
    """Seconds of the first drawing and the median of the following ones, each a visitor of its own."""
    cold, _ = draw(name, params)
    warm = []
    for _ in range(repeats):
        time.sleep(EXPIRED_S)
        warm.append(draw(name, params))
    if profile is not None:
        time.sleep(EXPIRED_S)
        profile.mkdir(parents=True, exist_ok=True)
        with profiled(profile / f"{name}.prof"):
            draw(name, params)
    walls = [wall for wall, _ in warm]
    return {
        "cold_s": round(cold, 3),
        "warm_s": round(statistics.median(walls), 3),
        "worst_s": round(max(walls), 3),
        "cpu_s": round(statistics.median(cpu for _, cpu in warm), 3),
    }


@contextlib.contextmanager
def profiled(path: Path) -> Iterator[None]:
    """Profile the thread in which AppTest runs a page; `python -m pstats PATH` shows it."""
    from streamlit.runtime.scriptrunner.script_runner import ScriptRunner

    profiler, run = cProfile.Profile(), ScriptRunner._run_script_thread
    ScriptRunner._run_script_thread = lambda self: profiler.runcall(run, self)
    try:
        yield
    finally:
        ScriptRunner._run_script_thread = run
        profiler.dump_stats(path)


def draw(name: str, params: dict[str, Any]) -> tuple[float, float]:
    """Draw a page for a new visitor: seconds by the wall and of the processor. Raises if it shows an exception."""
    from streamlit.testing.v1 import AppTest

    test = AppTest.from_file(str(PROJECT_ROOT / "tests" / "ui" / "one_page.py"), default_timeout=300)
    for key, value in {"_page": name, **params}.items():
        test.query_params[key] = value
    began, cpu = time.perf_counter(), time.process_time()
    test.run()
    seconds = time.perf_counter() - began, time.process_time() - cpu
    if test.exception or test.error:
        raise RuntimeError(f"{name}: {(test.exception or test.error)[0].value}")
    return seconds


if __name__ == "__main__":
    main()
