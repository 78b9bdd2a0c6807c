"""Make the generic draft anew: train and measure it, then pack what every domain starts from.

    draftbench data fetch pyserini llamafactory
    python sample_data/drafts/make.py --home /some/scratch/folder

The run is `draftbench run recipes/drafts/generic.yaml`; one that is finished in the scratch home is
not done again, one that was stopped goes on. Beside the weights (bfloat16, without the embeddings and
the head, which are the target's) lie the recipe as it was resolved, the learning curve, the figures
with their intervals, and where they come from.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from engine.export.small_draft import pack_draft
from engine.fileio import read_json, write_json
from engine.paths import PROJECT_ROOT, Home
from engine.runs.folder import RunFolder, run_folders

RECIPE = "recipes/drafts/generic.yaml"
OUT = PROJECT_ROOT / "sample_data" / "drafts" / "generic"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--home", type=Path, required=True, help="scratch DRAFTBENCH_HOME; needs about 1 GB")
    arguments.add_argument("--out", type=Path, default=OUT, help="folder that the draft is written to")
    given = arguments.parse_args()
    home = Home(given.home.absolute())
    run = newest(home)
    if run is None:
        call(home, ["run", RECIPE])
    elif not run.summary_path.exists():
        call(home, ["run", "--resume", run.id])
    run = newest(home)
    assert run is not None
    shutil.rmtree(given.out, ignore_errors=True)
    pack_draft(run.path / "draft" / "best", given.out)
    shutil.copyfile(PROJECT_ROOT / RECIPE, given.out / "recipe.yaml")
    write_curve(run, given.out / "curve.csv")
    write_json(given.out / "figures.json", figures(run))
    size = sum(f.stat().st_size for f in given.out.iterdir()) / 1e6
    print(f"packed {run.id} to {given.out.name}: {size:.1f} MB")


def newest(home: Home) -> RunFolder | None:
    return next((run for run in run_folders(home) if run.recipe().name == "generic"), None)


def call(home: Home, arguments: list[str]) -> None:
    print("draftbench", shlex.join(arguments), flush=True)
    environment = {**os.environ, "DRAFTBENCH_HOME": str(home.root)}
    subprocess.run([sys.executable, "-m", "engine", *arguments], check=True, cwd=PROJECT_ROOT, env=environment)


def write_curve(run: RunFolder, path: Path) -> None:
    """Exact acceptance on the watched prompts while training: one line an evaluation and temperature."""
    columns = ["step", "tokens_seen", "temperature", "exact"]
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([event[c] for c in columns] for event in events if event["kind"] == "eval")


def figures(run: RunFolder) -> dict[str, object]:
    """What the run measured, and the hashes and versions behind it."""
    summary, provenance = run.summary(), read_json(run.path / "provenance.json")
    kept = (
        "target_fingerprint",
        "target_dtype",
        "device",
        "versions",
        "source",
        "seeds",
        "prompts",
        "draft_parameters",
    )
    return {
        "run": run.id,
        "metrics": [m for m in summary["metrics"] if m["metric"] in ("exact", "greedy_agreement", "tau")],
        "conditions": summary["conditions"],
        "training": read_json(run.path / "training.json"),
        "provenance": {key: provenance[key] for key in kept if key in provenance},
    }


if __name__ == "__main__":
    main()
