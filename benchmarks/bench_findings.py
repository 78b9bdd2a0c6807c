"""How long Findings takes with many runs: the page, drawn as `bench_ui` draws it, and the command.

    python benchmarks/bench_findings.py --runs 200

Makes a home of that many runs: the sample runs, and copies of their study under further seeds, so that every claim has
comparisons. Draws the page three times over: `first_s` in a new home, where everything is worked out; `cold_s` in a new
process, from what is kept on disk; `warm_s`, the median of the following visitors. All are the processor's seconds of
this process, from script start to script end, without a browser. Prints JSON; exits with status 1 if a warm page or a
cold one takes a second or more. A home given by --home is kept and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_ui import draw
from engine.index.ingest import ingest_all
from engine.paths import PROJECT_ROOT, Home
from engine.runs.samples import sample_folders

LIMIT_S = 1.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=200)
    arguments.add_argument("--repeats", type=int, default=5, help="warm drawings of the page")
    arguments.add_argument("--home", type=Path, help="keep the store here, and use it again")
    arguments.add_argument("--draw", action="store_true", help="only draw: in a home that is filled")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Home((chosen.home or Path(scratch)).absolute())
        os.environ |= {"DRAFTBENCH_HOME": str(home.root), "DRAFTBENCH_SAMPLES": "0"}
        if chosen.draw:
            print(json.dumps(seconds_of_drawings(1 + chosen.repeats)))
            return
        fill(home, chosen.runs)
        shutil.rmtree(home.root / "kept", ignore_errors=True)
        first, *_ = drawn_elsewhere(home, 0)
        cold, *warm = drawn_elsewhere(home, chosen.repeats)
        report = {
            "runs": len(list(home.runs.iterdir())),
            "first_s": first,
            "cold_s": cold,
            "warm_s": round(statistics.median(warm), 3),
            "command_s": seconds_of_command(home),
            "limit_s": LIMIT_S,
        }
    print(json.dumps(report, indent=2))
    sys.exit(max(report["cold_s"], report["warm_s"]) >= LIMIT_S)


def fill(home: Home, runs: int) -> None:
    """Copies of the sample runs, without weights: each under its own name, the second copy under seed 1 and so on."""
    templates = sample_folders()
    for number in range(runs):
        again, place = divmod(number, len(templates))
        template = templates[place]
        folder = home.run(f"{template.name}-s{again}" if again else template.name)
        if folder.exists():
            continue
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns("draft", "checkpoints", "tokens.parquet"))
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        config["train"]["seed"] += again
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    ingest_all(home)


def seconds_of_drawings(times: int) -> list[float]:
    """The processor's seconds of each drawing in this process, each for a new visitor."""
    draw("learn", {})  # loads Streamlit, which a server has done before its first visitor
    seconds = []
    for _ in range(times):
        began = time.process_time()
        draw("findings", {})
        seconds.append(round(time.process_time() - began, 3))
    return seconds


def drawn_elsewhere(home: Home, repeats: int) -> list[float]:
    """The same in a new process."""
    line = [sys.executable, __file__, "--draw", "--home", str(home.root), "--repeats", str(repeats)]
    done = subprocess.run(line, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds


def seconds_of_command(home: Home) -> float:
    """`draftbench findings --json`, from start to end, by the clock."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "engine", "findings", "--json"], stdout=subprocess.DEVNULL, check=True)
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
