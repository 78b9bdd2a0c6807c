"""How long the server takes to draw the pages of a home with many runs.

    python benchmarks/bench_ui.py --runs 1000 --tokens 2000000

Makes a home of that many runs from the sample runs (their own tables, cut to the requested number of token rows),
indexes it, and draws pages with Streamlit's AppTest: from script start to script end, in this process, without a
browser. The first drawing is reported as `cold`, the following ones as `warm`. A home given by --home is kept and used
again. Prints JSON; exits with status 1 if Home takes more than 1.5 s or Compare of six runs more than 1 s when warm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.fileio import read_json, write_json
from engine.index.connection import reading
from engine.index.ingest import ingest_all
from engine.paths import PROJECT_ROOT, Home
from engine.runs.samples import sample_folders

LIMITS_S = {"home": 1.5, "compare": 1.0}
LOSSES = ("forward_kl", "reverse_kl", "jsd", "tvd", "lk_hybrid", "sft")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--tokens", type=int, default=2_000_000, help="rows of the tokens table in all")
    arguments.add_argument("--repeats", type=int, default=7, help="warm drawings of each page")
    arguments.add_argument("--home", type=Path, help="keep the store here, and use it again")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Home((given.home or Path(scratch)).absolute())
        os.environ |= {"DRAFTBENCH_HOME": str(home.root), "DRAFTBENCH_SAMPLES": "0"}
        began = time.perf_counter()
        fill(home, given.runs, given.tokens)
        report: dict[str, Any] = {"filled_s": round(time.perf_counter() - began, 1), **contents(home)}
        report["pages"] = {name: timed(name, params, given.repeats) for name, params in views(home).items()}
    slow = [name for name, limit in LIMITS_S.items() if report["pages"][name]["warm_s"] > limit]
    print(json.dumps({**report, "limits_s": LIMITS_S, "too_slow": slow}, indent=2))
    sys.exit(bool(slow))


def fill(home: Home, runs: int, tokens: int) -> None:
    """Run folders made of the sample runs, each under a name, a loss and a seed of its own, and the index of them."""
    templates = sample_folders()
    for number in range(runs):
        place = home.run(f"bench-{number:04d}")
        if not place.exists():
            copy_run(templates[number % len(templates)], place, number, tokens // runs)
    ingest_all(home)


def copy_run(template: Path, place: Path, number: int, tokens: int) -> None:
    """The template without weights; measured tables are cut so that `tokens` rows of the trace stay."""
    shutil.copytree(template, place, ignore=shutil.ignore_patterns("draft", "checkpoints"))
    config = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    config["name"] = place.name
    config["train"] |= {"seed": number, "loss": [{"name": LOSSES[number % len(LOSSES)]}]}
    (place / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    status = read_json(place / "status.json")
    write_json(place / "status.json", {**status, "created_at": f"2026-01-{1 + number % 28:02d}T10:00:00+00:00"})
    table = pd.read_parquet(place / "measure" / "tokens.parquet")
    enough = [table] * (tokens // len(table) + 1)
    pd.concat(enough, ignore_index=True).head(tokens).to_parquet(place / "measure" / "tokens.parquet", index=False)


def contents(home: Home) -> dict[str, int]:
    """Rows in the index."""
    with reading(home.index) as con:
        counts = {
            name: con.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("runs", "prompts", "positions")
        }
    return {name: int(row[0]) if row else 0 for name, row in counts.items()}


def views(home: Home) -> dict[str, dict[str, Any]]:
    """The pages that are drawn, with their parameters: six runs of one domain for Compare."""
    one_domain = sorted(path.name for path in home.runs.iterdir() if path.name.startswith("bench-"))
    six = [name for name in one_domain if "biology" in (home.run(name) / "config.yaml").read_text(encoding="utf-8")][:6]
    return {
        "home": {},
        "compare": {"runs": six},
        "runs": {},
        "run": {"run": six[0]},
        "explorer": {"alike": "all"},
        "findings": {},
    }


def timed(name: str, params: dict[str, Any], repeats: int) -> dict[str, float]:
    """Seconds of the first drawing and the median of the following ones, each a visitor of its own."""
    seconds = [draw(name, params) for _ in range(repeats + 1)]
    return {
        "cold_s": round(seconds[0], 3),
        "warm_s": round(statistics.median(seconds[1:]), 3),
        "worst_s": round(max(seconds[1:]), 3),
    }


def draw(name: str, params: dict[str, Any]) -> float:
    """Draw a page for a new visitor; raises if it shows an exception."""
    from streamlit.testing.v1 import AppTest

    test = AppTest.from_file(str(PROJECT_ROOT / "tests" / "ui" / "one_page.py"), default_timeout=300)
    for key, value in {"_page": name, **params}.items():
        test.query_params[key] = value
    began = time.perf_counter()
    test.run()
    seconds = time.perf_counter() - began
    if test.exception or test.error:
        raise RuntimeError(f"{name}: {(test.exception or test.error)[0].value}")
    return seconds


if __name__ == "__main__":
    main()
