"""Speed and peak memory of training, of this checkout against another one, on the same answers.

    git worktree add ../before 1f670fd
    python benchmarks/training_speed.py --against ../before

The target answers 64 prompts once. Then two processes, one a checkout, train the same draft from those answers, six
epochs of four steps with whole-vocabulary forward KL by default, and take turns: a step of one, the same step of the
other. So both see the same machine, the ratio is one of pairs, and the losses printed beside each other show that the
work is the same. Each process also reports the memory that it took beyond the loaded target. Without --against, this
checkout alone is timed. About two minutes on two idle cores. Memory is Linux's (VmHWM is reset and read).

`time_steps` and `random_text` are for benchmarks/gpu.py: steps of any size on any device, without a prompt or a file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, os.environ.get("DRAFTBENCH_CHECKOUT") or str(Path(__file__).resolve().parent.parent))

from engine.capture.batches import Batch, Sample
from engine.capture.plan import plan_capture
from engine.capture.signal import SignalFormat, signal_format
from engine.capture.store import Capture, make_capture
from engine.config.schema import DEFAULT_TARGET, CaptureSpec, DraftSpec, ModelSpec, PromptSource, TrainSpec
from engine.data.readers import read_prompts
from engine.distill.modes.offline import OfflineBatches
from engine.distill.reading import SignalReader
from engine.distill.source import BatchSource
from engine.distill.trainer import Trainer
from engine.models.draft import initialise_draft
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel, load_model
from engine.progress import SILENT, Progress
from engine.records.events import Event

PROMPTS = "sample_data/prompts/biology/train.jsonl"
ANSWERS = 64
WARM_UP = 1  # steps of each process that are not counted


class Enough(Exception):
    """Ends a training after the steps that were wanted."""


def run_steps(trainer: Trainer, after_step: Callable[[float, float, float, int], None]) -> None:
    """Train; `after_step` gets each step's seconds, CPU seconds, loss and positions, and may raise Enough."""
    began, began_cpu = time.monotonic(), time.process_time()

    def emit(event: Event) -> None:
        nonlocal began, began_cpu
        if event.kind == "train":
            took = time.monotonic() - began, time.process_time() - began_cpu
            after_step(*took, event.loss, event.positions)  # type: ignore[attr-defined]
            began, began_cpu = time.monotonic(), time.process_time()

    trainer.emit, trainer.evaluate = emit, None
    with contextlib.suppress(Enough):
        trainer.run()


def settings_of(**changes: Any) -> TrainSpec:
    """Nothing is evaluated or kept on the way."""
    return TrainSpec.model_validate({"checkpoint_every": 10**6, "eval_every": 10**6, **changes})


# ---- steps of any size on any device ------------------------------------------------------------


class Kept:
    """A capture in memory, as far as a signal is read from it."""

    def __init__(self, samples: Sequence[Sample], form: SignalFormat) -> None:
        self.raw, self.format = torch.cat([sample.raw_signal for sample in samples]), form
        self.positions = len(self.raw)

    def raw_positions(self, part: slice) -> torch.Tensor:
        """[position, bytes_per_token] uint8 of a range of positions."""
        return self.raw[part]


class AllAtOnce(BatchSource):
    """All samples in every step."""

    reads_weights = False

    def __init__(self, samples: Sequence[Sample], target: LoadedModel, settings: TrainSpec, steps: int) -> None:
        form = signal_format("exact", target.model, 0)
        reader = SignalReader(form, Head.of(target.model), target.device, None, settings, Kept(samples, form))  # type: ignore[arg-type]
        super().__init__(settings, reader, target.device)
        self.samples, self.steps, self.visits = samples, steps, float(steps)

    def micro_batches(self, step: int) -> Sequence[Batch]:
        return self.grouped(self.samples)


@torch.no_grad()
def random_text(target: LoadedModel, rows: int, prompt_tokens: int, answer_tokens: int) -> list[Sample]:
    """Rows of random text with the target's real hidden states: speed depends on shapes, not on what is said."""
    width = prompt_tokens + answer_tokens
    text = torch.randint(100, target.vocab_rows, (rows, width), generator=torch.Generator().manual_seed(0))
    form, samples = signal_format("exact", target.model, 0), []
    for number, row in enumerate(text):
        states = hidden_states(target.model, row[None, :-1].to(target.device))[0, prompt_tokens - 1 :]
        ids = row.tolist()
        raw = form.encode(states, states)
        places = torch.arange(number * answer_tokens, (number + 1) * answer_tokens)
        samples.append(Sample(str(number), ids[:prompt_tokens], ids[prompt_tokens:], raw.cpu(), places))
    return samples


def time_steps(
    target: LoadedModel,
    *,
    positions: int = 16384,
    prompt_tokens: int = 1,
    answer_tokens: int = 128,
    layers: int = 4,
    steps: int = 32,
    once: bool = False,
    changes: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Response positions a second of whole optimiser steps on random text, on the target's device.

    `steps` are counted after as many uncounted ones; on a GPU take a multiple of 16, after which losses are read. With
    `once`, as if each text were seen once: forward KL then needs the target's logits at every step.
    """
    rows = max(1, positions // answer_tokens)
    settings = settings_of(**(changes or {}))
    source = AllAtOnce(random_text(target, rows, prompt_tokens, answer_tokens), target, settings, 2 * steps)
    source.visits = 1.0 if once else source.visits
    draft = initialise_draft(target, DraftSpec(layers=layers), seed=0)
    seconds: list[float] = []

    def after_step(took: float, cpu: float, loss: float, count: int) -> None:
        seconds.append(took)
        if len(seconds) == 2 * steps:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        run_steps(Trainer(draft, source, settings, Path(folder), progress=SILENT), after_step)
    spent = sum(seconds[steps:])
    return {
        "positions_per_step": rows * answer_tokens,
        "steps": steps,
        "seconds_per_step": spent / steps,
        "positions_per_s": steps * rows * answer_tokens / spent,
    }


# ---- two processes that take turns --------------------------------------------------------------


def resident_bytes(which: str) -> int:
    """VmRSS (now) or VmHWM (the most since it was reset) of this process."""
    match = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def capture(options: argparse.Namespace, folder: Path) -> None:
    """Let the target answer the first prompts."""
    target = load_model(ModelSpec(model=options.target))
    prompts = read_prompts([PromptSource(path=options.prompts, limit=ANSWERS)]).prompts
    plan = plan_capture(folder, target, prompts, CaptureSpec(max_new_tokens=options.tokens))
    make_capture(plan, target, batch_size=ANSWERS, progress=Progress(quiet=True))


def child(options: argparse.Namespace) -> int:
    """Train a step whenever a line comes in, and say how long it took; at the end say how much memory was needed."""
    target = load_model(ModelSpec(model=options.target))
    (folder,) = (path for path in Path(options.child).iterdir() if path.is_dir())
    answers = Capture(folder, signal_format("exact", target.model, 0))
    base = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM
    epochs = (WARM_UP + options.steps) * options.answers / len(answers.answers)
    settings = settings_of(
        loss=options.loss.split("+"), batch_size=options.answers, epochs=epochs, **json.loads(options.train)
    )
    source = OfflineBatches(answers, settings, Head.of(target.model), target.device)
    draft = initialise_draft(target, DraftSpec(layers=options.layers), seed=0)

    def after_step(took: float, cpu: float, loss: float, count: int) -> None:
        print(json.dumps({"seconds": took, "cpu_s": cpu, "loss": loss, "positions": count}), flush=True)
        if not sys.stdin.readline().strip():
            raise Enough

    sys.stdin.readline()
    with tempfile.TemporaryDirectory() as run:
        run_steps(Trainer(draft, source, settings, Path(run), progress=SILENT), after_step)
    print(json.dumps({"above_target_bytes": resident_bytes("VmHWM") - base}), flush=True)
    return 0


class Worker:
    """A child process in one checkout."""

    def __init__(self, checkout: Path, data: Path, arguments: Sequence[str]) -> None:
        environment = {**os.environ, "DRAFTBENCH_CHECKOUT": str(checkout), "PYTHONPATH": str(checkout)}
        command = [sys.executable, __file__, *arguments, "--child", str(data)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
        )

    def step(self) -> dict[str, float]:
        """One optimiser step."""
        return self._ask("step\n")

    def end(self) -> dict[str, float]:
        """Stop; what the process needed."""
        figures = self._ask("\n")
        self.process.wait()
        return figures

    def _ask(self, line: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()
        figures: dict[str, float] = json.loads(self.process.stdout.readline())
        return figures


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios and its 95% interval from the scatter of their logarithms."""
    logs = [math.log(r) for r in ratios]
    mean = statistics.fmean(logs)
    half = 2.0 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def compare(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """The figures of both checkouts, or of this one alone."""
    here = Path(__file__).resolve().parent.parent
    checkouts = {"this": here, **({"other": Path(options.against).resolve()} if options.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "captures"
        oldest = list(checkouts.values())[-1]  # a newer one reads what an older one wrote
        Worker(oldest, data, [*arguments, "--capture"]).process.wait()
        workers = {name: Worker(path, data, arguments) for name, path in checkouts.items()}
        steps: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for number in range(WARM_UP + options.steps):
            for name in sorted(workers, reverse=bool(number % 2)):
                steps[name].append(workers[name].step())
        memory = {name: worker.end()["above_target_bytes"] for name, worker in workers.items()}
    counted = {name: taken[WARM_UP:] for name, taken in steps.items()}
    result: dict[str, Any] = {
        name: {
            "tokens_per_s": sum(s["positions"] for s in taken) / sum(s["seconds"] for s in taken),
            "seconds_per_step": statistics.median(s["seconds"] for s in taken),
            "positions_per_step": statistics.fmean(s["positions"] for s in taken),
            "first_loss": steps[name][0]["loss"],
            "last_loss": taken[-1]["loss"],
            "above_target_bytes": memory[name],
        }
        for name, taken in counted.items()
    }
    if "other" in counted:
        for key, name in (("seconds", "ratio"), ("cpu_s", "cpu_ratio")):
            pairs = zip(counted["this"], counted["other"], strict=True)
            result[name] = interval([theirs[key] / mine[key] for mine, theirs in pairs])
        losses = zip(steps["this"], steps["other"], strict=True)
        result["largest_loss_difference"] = max(abs(a["loss"] - b["loss"]) for a, b in losses)
    return {"threads": torch.get_num_threads(), "loss": options.loss, "steps": options.steps, **result}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="another checkout of Draftbench, to be timed in turns with this one")
    parser.add_argument("--target", default=DEFAULT_TARGET, help="as in a recipe")
    parser.add_argument("--prompts", default=PROMPTS, help="prompt file")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--answers", type=int, default=16, help="answers a step")
    parser.add_argument("--layers", type=int, default=4, help="of the draft")
    parser.add_argument("--steps", type=int, default=23, help="counted steps of each, after one that is not")
    parser.add_argument("--loss", default="forward_kl", help="a loss, or several joined by +")
    parser.add_argument("--train", default="{}", help="other keys of the section train, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--capture", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.capture:
        capture(options, Path(options.child))
        return 0
    if options.child:
        return child(options)
    given = list(sys.argv[1:] if arguments is None else arguments)
    result = compare(options, [part for part in given if part != "--json"])
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for name in ("this", "other"):
        if name in result:
            own = result[name]
            print(
                f"{name:6} {own['tokens_per_s']:7.0f} response tokens/s, {own['seconds_per_step']:.3f} s a step of "
                f"{own['positions_per_step']:.0f}, loss {own['first_loss']:.4f} to {own['last_loss']:.4f}, "
                f"{own['above_target_bytes'] / 1e9:.2f} GB beyond the target"
            )
    if "ratio" in result:
        ratio, low, high = result["ratio"]
        print(f"this checkout trains {ratio:.2f} [{low:.2f}, {high:.2f}] times as fast as the other")
        ratio, low, high = result["cpu_ratio"]  # what other work on the machine disturbs less, with one thread
        print(f"and takes 1/{ratio:.2f} [{low:.2f}, {high:.2f}] of its CPU time")
        print(f"losses differ by at most {result['largest_loss_difference']:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
