"""Peak memory of training with full-vocabulary forward KL, in addition to that of the loaded target.

    python benchmarks/training_memory.py

Three optimiser steps of a four-layer draft of SmolLM2-135M-Instruct, each with one micro-batch of more than 4,096
response positions with exact signal, in a process of its own. Memory is counted from the loaded target on, so the
figure includes the draft's weights, gradients and AdamW moments; the goal is less than 3 GB. A second process takes all
positions as one chunk, as a loss without chunks does. Takes about 3 minutes on two idle cores; Linux only (it resets
and reads VmHWM).
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.capture.batches import Batch
from engine.capture.signal import signal_format
from engine.config.schema import DEFAULT_TARGET, DraftSpec, ModelSpec, TrainSpec
from engine.distill import chunked
from engine.distill.reading import SignalReader
from engine.distill.source import BatchSource
from engine.distill.trainer import Trainer
from engine.models import head
from engine.models.draft import initialise_draft
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel, load_model
from engine.progress import SILENT

GOAL_BYTES = 3e9
PROMPT_TOKENS, ANSWER_TOKENS, STEPS = 40, 256, 3


class OneBatch(BatchSource):
    """The same micro-batch at every step."""

    steps = STEPS

    def __init__(self, batch: Batch, target: LoadedModel, settings: TrainSpec) -> None:
        signal = SignalReader(
            signal_format("exact", target.model, 0), Head.of(target.model), target.device, None, settings
        )
        super().__init__(settings, signal, target.device)
        self.batch = batch

    def micro_batches(self, step: int) -> Sequence[Batch]:
        return [self.batch]


def random_batch(target: LoadedModel, rows: int) -> Batch:
    """Rows of 40 prompt and 256 answer tokens. Memory depends on shapes alone, not on what is said."""
    width = PROMPT_TOKENS + ANSWER_TOKENS
    text = torch.randint(100, target.vocab_rows, (rows, width), generator=torch.Generator().manual_seed(0))
    ids = text[:, :-1].to(target.device)
    responds = torch.zeros_like(ids, dtype=torch.bool)
    responds[:, PROMPT_TOKENS - 1 :] = True
    form = signal_format("exact", target.model, 0)
    with torch.no_grad():
        hidden = torch.cat([hidden_states(target.model, row.unsqueeze(0))[0, PROMPT_TOKENS - 1 :] for row in ids])
    raw = form.encode(hidden, hidden)
    answers = text[:, PROMPT_TOKENS:].reshape(-1).to(target.device)
    names = [str(row) for row in range(rows)]
    places = torch.arange(len(answers))
    return Batch(ids, torch.ones_like(ids), responds, answers, raw, places, [ANSWER_TOKENS] * rows, names)


def resident_bytes(which: str) -> int:
    """VmRSS (now) or VmHWM (the most since it was reset) of this process."""
    match = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def train(model: str, positions: int, precision: str, one_chunk: bool) -> dict[str, Any]:
    """What the training process itself does and measures."""
    target = load_model(ModelSpec(model=model))
    rows = -(-positions // ANSWER_TOKENS)
    batch = random_batch(target, rows)
    gc.collect()
    base = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM
    if one_chunk:
        head.CHUNK_VALUES = chunked.CPU_CHUNK_VALUES = chunked.CPU_BLOCK_VALUES = batch.tokens * target.vocab_rows
    draft = initialise_draft(target, DraftSpec(layers=4), seed=0)
    settings = TrainSpec.model_validate({"precision": precision})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(draft, OneBatch(batch, target, settings), settings, Path(folder), progress=SILENT)
        trainer.run()
    return {
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "target_dtype": target.dtype_name,
        "positions": batch.tokens,
        "padded_tokens": batch.ids.numel(),
        "vocab": target.vocab_rows,
        "chunk": head.chunk_size(target.vocab_rows),
        "target_bytes": base,
        "above_target_bytes": resident_bytes("VmHWM") - base,
        "seconds_per_step": trainer.outcome.seconds / STEPS,
    }


def in_own_process(arguments: list[str], one_chunk: bool) -> dict[str, Any]:
    """The figures of a training process that shares no memory with this one."""
    command = [sys.executable, __file__, *arguments, "--child", "one" if one_chunk else "many"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Measure both ways; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=DEFAULT_TARGET, help="as in a recipe")
    parser.add_argument("--positions", type=int, default=4096, help="response positions a step, at least")
    parser.add_argument("--precision", default="auto", help="auto, bfloat16 or float32: of the draft's forward pass")
    parser.add_argument("--no-unchunked", action="store_true", help="leave out the process that takes one chunk")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--child", choices=["many", "one"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(train(options.target, options.positions, options.precision, options.child == "one")))
        return 0
    given = ["--target", options.target, "--positions", str(options.positions), "--precision", options.precision]
    chunked = in_own_process(given, one_chunk=False)
    whole = None if options.no_unchunked else in_own_process(given, one_chunk=True)
    passed = chunked["above_target_bytes"] < GOAL_BYTES
    if options.json:
        print(json.dumps({"passed": passed, "chunked": chunked, "unchunked": whole}, indent=2))
        return 0 if passed else 1
    tensor = chunked["positions"] * chunked["vocab"] * 4
    print(
        f"{chunked['positions']:,} response positions ({chunked['padded_tokens']:,} padded tokens), forward in "
        f"{chunked['dtype']}, process with the {chunked['target_dtype']} target loaded: "
        f"{chunked['target_bytes'] / 1e9:.2f} GB"
    )
    print(f"one [{chunked['positions']}, {chunked['vocab']}] float32 tensor: {tensor / 1e9:.2f} GB")
    if whole:
        print(f"all positions in one chunk: {whole['above_target_bytes'] / 1e9:.2f} GB above the target")
    print(
        f"chunks of {chunked['chunk']} positions: {chunked['above_target_bytes'] / 1e9:.2f} GB above the target, goal "
        f"under {GOAL_BYTES / 1e9:g} GB: {'met' if passed else 'MISSED'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
