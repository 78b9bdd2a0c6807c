"""Make the sample runs anew: train and measure each, then pack what the workbench shows of them.

    python sample_data/runs/make.py --home /some/scratch/folder
    python sample_data/runs/make.py --home /some/scratch/folder --only biology-historical
    python sample_data/runs/make.py --home /some/scratch/folder --only first

`first` is the study of recipes/studies/first.yaml: hours on two cores; what is finished of it is packed. Each
other run is one `draftbench run RECIPE --set ...`, printed before it starts; one that is finished in the scratch
home is not done again. Those of the domain targets need `draftbench data fetch --all`. Packing leaves out
checkpoints, and weights but of the drafts that the live view starts with, which are rounded to bfloat16, the
dtype they were measured in. Of a study's runs it also leaves out the traces and the untrained draft's single
positions, which are the same in every run, but for those trained on historical queries, the larger number of them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from engine.config.identity import project_path
from engine.export.small_draft import pack_draft
from engine.fileio import read_json, write_json
from engine.paths import PROJECT_ROOT, Home, cache_dir
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import Labels
from engine.runs.samples import SAMPLES
from engine.study.known import find
from engine.study.start import study

COMMON = [
    "draft.layers=2",
    "train.epochs=6",
    "train.eval_prompts=8",
    "measure.trace_prompts=16",
    "measure.speed_prompts=6",
]
FUNCTION_CALLING = [
    "prompts.domain=function_calling",
    "prompts.train=sample_data/prompts/function_calling/train.jsonl",
    "prompts.heldout=sample_data/prompts/function_calling/heldout.jsonl",
]
LAYERS = "recipes/from_layers.yaml"
RUNS: dict[str, tuple[str, str, list[str]]] = {  # name -> title, recipe, settings over it
    "biology-forward-kl": ("Biology, forward KL", LAYERS, COMMON),
    "biology-forward-kl-seed1": ("Biology, forward KL, seed 1", LAYERS, [*COMMON, "train.seed=1"]),
    "biology-reverse-kl": ("Biology, reverse KL", LAYERS, [*COMMON, "train.loss=reverse_kl"]),
    "biology-jsd": ("Biology, JSD", LAYERS, [*COMMON, "train.loss=jsd"]),
    "biology-sft": ("Biology, SFT (black box)", LAYERS, [*COMMON, "train.loss=sft"]),
    "function-calling-forward-kl": ("Function calling, forward KL", LAYERS, [*COMMON, *FUNCTION_CALLING]),
    "function-calling-sft": (
        "Function calling, SFT (black box)",
        LAYERS,
        [*COMMON, *FUNCTION_CALLING, "train.loss=sft"],
    ),
    "generic": ("The generic draft on its own target", "recipes/drafts/generic.yaml", []),
    "function-calling-historical": (
        "Function-calling target, historical prompts",
        "recipes/domains/function_calling-historical.yaml",
        [],
    ),
    "biology-historical": ("Biology target, historical prompts", "recipes/domains/biology-historical.yaml", []),
    "chinese-historical": ("Chinese target, historical prompts", "recipes/domains/chinese-historical.yaml", []),
    "serve-biology": ("Biology target, a draft to serve", "recipes/serve/biology.yaml", []),
    "serve-chinese": ("Chinese target, a draft to serve", "recipes/serve/chinese.yaml", []),
    "serve-function-calling": ("Function-calling target, a draft to serve", "recipes/serve/function_calling.yaml", []),
}
STUDY = "recipes/studies/first.yaml"
BASELINE = "biology-forward-kl"
WITH_WEIGHTS = (
    "biology-forward-kl",
    "function-calling-forward-kl",
    "serve-biology",
    "serve-chinese",
    "serve-function-calling",
)
KEPT = ("config.yaml", "status.json", "events.jsonl", "log.txt", "provenance.json", "training.json", "measure")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--home", type=Path, required=True, help="scratch DRAFTBENCH_HOME; needs about 2 GB")
    arguments.add_argument("--out", type=Path, default=SAMPLES, help="folder that the packed runs are written to")
    arguments.add_argument("--only", nargs="+", choices=[*RUNS, "first"], help="make and replace these alone")
    arguments.add_argument("--pack", action="store_true", help="make nothing: pack what the scratch home has")
    given = arguments.parse_args()
    home = Home(given.home.absolute())
    chosen = {name: run for name, run in RUNS.items() if name in (given.only or RUNS)}
    if not given.only or "first" in given.only:
        pack_study(home, given.out, make_first=not given.pack)
    for name, (_, recipe, settings) in chosen.items():
        if not given.pack:
            make(home, name, recipe, settings)
    for old in given.out.iterdir():
        if (old / "config.yaml").exists() and RunFolder(old).recipe().name in chosen:
            shutil.rmtree(old)
    for name, (title, _, _) in chosen.items():
        run = newest(home, name)
        assert run is not None
        pack(run, given.out / run.id, weights=name in WITH_WEIGHTS)
        Labels(title=title, tags=("sample",), baseline=name == BASELINE).write(given.out / run.id)


def newest(home: Home, name: str) -> RunFolder | None:
    """The newest run of exactly that name."""
    return next((run for run in run_folders(home) if run.recipe().name == name), None)


def make(home: Home, name: str, recipe: str, settings: list[str]) -> None:
    """Train and measure the run, or go on with it, or leave it if it is done."""
    run = newest(home, name)
    if run is None:
        given = [part for setting in [f"name={name}", *settings] for part in ("--set", setting)]
        call(home, ["run", recipe, *given])
    elif not run.summary_path.exists():
        call(home, ["run", "--resume", run.id])


def call(home: Home, arguments: list[str]) -> None:
    print("draftbench", shlex.join(arguments), flush=True)
    subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        check=True,
        cwd=PROJECT_ROOT,
        env={**os.environ, "DRAFTBENCH_HOME": str(home.root)},
    )


def pack_study(home: Home, out: Path, *, make_first: bool) -> None:
    """Make the study's missing cells, then pack all that are finished."""
    if make_first:
        call(home, ["study", STUDY, "--yes"])
    placed = study(home, find(home, STUDY, [])).placed
    done = {one.run.id: one for one in placed if one.run is not None and one.state == "done"}
    for old in out.glob("first-*"):
        shutil.rmtree(old)
    for run_id, one in done.items():
        where = one.cell.labels
        whole = where["scenario"] == "historical" and where["queries"] == "200" and one.cell.schedule == "own"
        pack(RunFolder(home.run(run_id)), out / run_id, weights=False, whole=whole)
        method = where["loss"] if where["mode"] == "offline" else f"{where['mode']} {where['loss']}"
        schedule = "" if one.cell.schedule == "own" else f", {one.cell.schedule.replace('-', ' ')}"
        title = f"{where['domain']}, {where['scenario']}, {where['queries']}: {method}{schedule}"
        Labels(title=title, tags=("sample", "study:first")).write(out / run_id)
    print(f"packed {len(done)} of the {len(placed)} runs of the study")


def pack(run: RunFolder, place: Path, *, weights: bool, whole: bool = True) -> None:
    """A copy of the run without what is large or belongs to this machine; if not `whole`, thinned tables."""
    place.mkdir(parents=True)
    for name in KEPT:
        source = run.path / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, place / name)
    if not whole:
        _thin(place / "measure")
    config = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    for values, key in [
        *((source, "path") for part in ("train", "heldout") for source in config["prompts"][part]),
        (config["target"], "adapter"),
        (config["draft"], "checkpoint"),
    ]:
        values[key] = project_path(values.get(key))
    (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    provenance = read_json(place / "provenance.json")
    write_json(place / "provenance.json", {**provenance, "command": ["draftbench", *provenance["command"][1:]]})
    status = read_json(place / "status.json")
    write_json(place / "status.json", {k: v for k, v in status.items() if k not in ("pid", "pid_started")})
    if weights:
        pack_draft(run.path / "draft" / "best", place / "draft" / "best")
    for path in (path for path in place.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".txt")):
        for folder in (Path.home(), PROJECT_ROOT, run.path.parent, cache_dir()):
            assert str(folder) not in path.read_text(encoding="utf-8"), f"{path} names {folder}, of this machine alone"
    print(f"packed {place.name}: {sum(f.stat().st_size for f in place.rglob('*') if f.is_file()) / 1e6:.1f} MB")


def _thin(measure: Path) -> None:
    """Drop rows that a study's runs can do without; positions of the trained draft pair it with others."""
    for name in ("rounds", "tokens"):
        path = measure / f"{name}.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    positions = pq.read_table(measure / "positions.parquet", filters=[("draft", "=", "trained")])
    pq.write_table(positions, measure / "positions.parquet")


if __name__ == "__main__":
    main()
