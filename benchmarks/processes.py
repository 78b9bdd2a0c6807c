"""A training on two processes against the same one on one: losses step by step and weights, on the embedded model.

    python benchmarks/processes.py                  # 30 steps, float32, several batches a step: ten minutes
    python benchmarks/processes.py --steps 12 --json

It trains the generic draft for the biology target in one process, then on two (gradients summed), on two with its
layers in pieces (`train.shard: full`), and on two that are killed (SIGKILL) in the middle and resumed in one; each by
the command line, as a user would. For each it prints the largest difference of a loss and of a weight from the single
process, which must be below 1e-6, and the seconds of a step. One process with other batches shows what the order of
sums alone makes. Speeds mean something only on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
NEAR = 1e-6
CONTROL = "one, other batches"
SETTINGS = {
    "prompts.train_prompts": 12,
    "prompts.heldout": "{path: sample_data/prompts/biology/heldout.jsonl, limit: 4}",
    "capture.max_new_tokens": 32,
    "target.dtype": "float32",
    "target.adapter": "sample_data/targets/biology",
    "draft.init": "checkpoint",
    "draft.checkpoint": "sample_data/drafts/generic",
    "train.learning_rate": 5e-4,
    "train.precision": "float32",
    "train.epochs": 1000,
    "train.batch_size": 6,
    "train.micro_batch_tokens": 200,
    "train.eval_prompts": 2,
    "train.eval_every": 1000,
    "train.checkpoint_every": 5,
}


@dataclass
class Trained:
    """One training beside the one in a single process."""

    name: str
    run: str
    loss_difference: float  # largest, over the steps
    weight_difference: float  # largest, over all weights of the last draft
    step_s: float  # median
    steps_by_processes: dict[str, int]

    @property
    def alike(self) -> bool:
        return max(self.loss_difference, self.weight_difference) < NEAR


class Bench:
    """Trainings in one home. They share captures."""

    def __init__(self, home: Path, steps: int) -> None:
        self.home, self.steps = home, steps
        self.environment = {**os.environ, "DRAFTBENCH_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(self, count: int, *arguments: str) -> list[str]:
        alone = [sys.executable, "-m", "engine", "train", *arguments]
        if count == 1:
            return alone
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        return [*launcher, *alone[1:]]

    def begin(self, name: str, count: int, **changes: Any) -> list[str]:
        values = {"name": name, "train.max_steps": self.steps, **SETTINGS, **changes}
        settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        return self.command(count, "recipes/smoke.yaml", *settings)

    def train(self, name: str, count: int, **changes: Any) -> Path:
        self._call(self.begin(name, count, **changes))
        return self.folder(name)

    def train_killed(self, name: str) -> Path:
        """Two processes, killed half-way with their launcher; one goes on."""
        process = subprocess.Popen(self.begin(name, 2), cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL)
        while not any(self.steps // 2 < step["step"] for step in self._steps_so_far(name)):
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode} before it could be killed")
            time.sleep(0.1)
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            member.send_signal(signal.SIGKILL)
        process.wait()
        self._call(self.command(1, "--resume", self.folder(name).name))
        return self.folder(name)

    def folder(self, name: str) -> Path:
        (folder,) = (self.home / "runs").glob(f"{name}-*")
        return folder

    def compared(self, name: str, folder: Path, alone: Path) -> Trained:
        mine, theirs = ({s["step"]: s for s in steps_of(path)} for path in (folder, alone))  # the last of those retaken
        weights, expected = (load_file(path / "draft" / "last" / "draft.safetensors") for path in (folder, alone))
        seconds = sorted(step["seconds"] - mine[n - 1]["seconds"] for n, step in mine.items() if n > 1)
        training = json.loads((folder / "training.json").read_text("utf-8"))
        return Trained(
            name,
            folder.name,
            max(abs(step["loss"] - theirs[n]["loss"]) for n, step in mine.items()),
            max(float((tensor - expected[n]).abs().max()) for n, tensor in weights.items()),
            seconds[len(seconds) // 2],
            training["steps_by_processes"],
        )

    def _steps_so_far(self, name: str) -> list[dict[str, Any]]:
        return [step for folder in (self.home / "runs").glob(f"{name}-*") for step in steps_of(folder)]

    def _call(self, command: list[str]) -> None:
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The events of optimiser steps; a line that is being written is left out."""
    try:
        lines = (folder / "events.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["kind"] == "train"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home), options.steps)
        alone = bench.train("alone", 1)
        trained = [
            bench.compared("one process", alone, alone),
            bench.compared(CONTROL, bench.train("others", 1, **{"train.micro_batch_tokens": 120}), alone),
            bench.compared("two processes", bench.train("two", 2), alone),
            bench.compared("two, in pieces", bench.train("pieces", 2, **{"train.shard": "full"}), alone),
            bench.compared("two killed, then one", bench.train_killed("killed"), alone),
        ]
    if options.json:
        print(json.dumps([{**asdict(each), "alike": each.alike} for each in trained]))
    else:
        for each in trained:
            print(
                f"{each.name:22}loss {each.loss_difference:.1e}  weights {each.weight_difference:.1e}  "
                f"{each.step_s:.2f} s a step  steps by processes {each.steps_by_processes}  "
                f"{'(control)' if each.name == CONTROL else 'alike' if each.alike else 'DIFFERENT'}"
            )
    return 0 if all(each.alike or each.name == CONTROL for each in trained) else 1


if __name__ == "__main__":
    sys.exit(main())
