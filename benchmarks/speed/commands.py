"""Rows on whole commands: how long `draftbench` takes to answer, and the quickstart from nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.speed.pairs import Paired, Rounds, Way, interleave
from benchmarks.speed.record import Figure, Row, pairs_of, row_of
from engine.errors import DraftbenchError
from engine.measure.statistics import bootstrap_ratio
from engine.paths import PROJECT_ROOT, Home
from engine.records.interval import Interval
from engine.runs.folder import RunFolder
from engine.runs.samples import lay_out_samples

COMMANDS = {"help": ["--help"], "runs": ["runs"]}


def start_row(folder: Path, *, rounds: Rounds, baseline: Path | None = None) -> Row:
    """Seconds until a command that needs no model has answered, in a home with the sample runs."""
    checkouts = {"": PROJECT_ROOT} | ({"baseline_": baseline} if baseline else {})
    ways: dict[str, Way] = {}
    for prefix, checkout in checkouts.items():
        own = Home(folder / f"{prefix}home")  # two versions would rebuild each other's index
        lay_out_samples(own)
        ways |= {f"{prefix}{name}": partial(_command, own, checkout, args) for name, args in COMMANDS.items()}
    home = Home(folder / "home")
    paired = interleave(ways, rounds, unit="commands")
    ratios = pairs_of(*((name, f"baseline_{name}") for name in COMMANDS if baseline))
    conditions = {"sample runs": len(list(home.runs.iterdir())), "device": "cpu"}
    row = row_of("start", "Commands that need no model", paired, ratios, conditions)
    figures = {f"{name}_s": Figure.of(_seconds(paired, name), "s") for name in ways}
    figures |= {f"{name}_torch": _loads_torch(home, arguments) for name, arguments in COMMANDS.items()}
    return row.model_copy(update={"figures": {**row.figures, **figures}})


def _command(home: Home, checkout: Path, arguments: list[str], number: int) -> float:
    _draftbench(home, checkout, arguments)
    return 1.0


def _draftbench(home: Home, checkout: Path, arguments: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(checkout), "DRAFTBENCH_HOME": str(home.root), "DRAFTBENCH_SAMPLES": "0"}
    command = [sys.executable, *options, "-m", "engine", *arguments]
    done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise DraftbenchError(f"draftbench {' '.join(arguments)} failed", said[0], "run it by hand")
    return done


def _seconds(paired: Paired, way: str) -> Interval:
    samples = paired.samples[way]
    return bootstrap_ratio([s.seconds for s in samples], [s.amount for s in samples])


def _loads_torch(home: Home, arguments: list[str]) -> Figure:
    """1 if the command imports torch, else 0."""
    told = _draftbench(home, PROJECT_ROOT, arguments, "-X", "importtime").stderr
    return Figure(value=float(bool(re.search(r"\|\s+torch$", told, re.MULTILINE))), unit="imports of torch")


def exact_row(folder: Path) -> Row:
    """How much sooner `exact` is known to +-.01 than the rate of decoded text: benchmarks/exact_speed.py's figures."""
    from benchmarks.exact_speed import exact_speed

    measured = exact_speed()
    figures = {
        "exact/decoding": Figure(**measured["ratio"], n=measured["prompts"], unit="times sooner"),
        "with_capture": Figure(**measured["ratio_with_capture"], n=measured["prompts"], unit="times sooner"),
        **{f"{way}_s": Figure(value=measured[way]["seconds_to_half_width"], unit="s") for way in ("exact", "decoding")},
    }
    kept = ("temperature", "num_draft_tokens", "dtype", "prompts", "half_width")
    return Row(
        name="exact",
        title="Acceptance to +-.01, by `exact` on captured text and by decoding",
        conditions={"device": "cpu", **{name: measured[name] for name in kept}},
        unit="seconds",
        samples={},
        figures=figures,
    )


def quickstart_row(folder: Path, recipe: str = "recipes/quickstart.yaml") -> Row:
    """The whole quickstart in a home without captures, once: seconds, those of its training, and its speed-up."""
    home = Home(folder / "home")
    began = time.perf_counter()
    done = _draftbench(home, PROJECT_ROOT, ["run", recipe])
    seconds = time.perf_counter() - began
    print(done.stdout)  # the result is worth reading, too
    run = RunFolder.open(home, "latest")
    speed = run.summary().speed
    figures = {"whole_s": Figure(value=seconds, unit="s")}
    if speed is not None and speed.speedup is not None:
        i = speed.speedup
        figures["speedup"] = Figure(value=i.value, low=i.low, high=i.high, n=i.n_prompts, unit="x plain")
    samples = {"whole": [(1.0, seconds)]}
    return Row(
        name="quickstart",
        title="The quickstart, whole",
        conditions={"recipe": recipe},
        unit="runs",
        samples=samples,
        figures=figures,
    )
