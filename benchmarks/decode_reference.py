"""Do the fast paths of decoding write what the reference writes?

    python benchmarks/decode_reference.py [NAME ...] [--prompts 50]

For tiny random models of every family that decoding is tried with (tests/tiny_decoders.py), in float32 at temperature
0: prompts of 1 to 30 tokens, 24 new ones, windows of 8. Each prompt is decoded plainly and speculatively, alone and in
ragged batches of 8, in a cache of slots, with recorded steps (on a CPU plain calls in place of CUDA graphs), and row by
row; each text must be what Transformers' own `generate` writes for the prompt alone.

Prints one line per model; exits with status 1 if a text differs. Takes about ten minutes with 50 prompts.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error")
import torch

from engine.decode import bare, runner
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.slot_fit import slot_fit
from engine.decode.slot_runner import SlotRunner
from engine.decode.speculative import plain_decode, speculative_decode
from engine.measure.certificate import texts
from tests.tiny_decoders import KINDS, made, prompts
from tests.tiny_pair import blend

TOKENS, BATCH = 24, 8
SETTINGS = DecodeSettings(Sampling(0.0), FixedLength(3), TOKENS, frozenset({1}))


@contextmanager
def path(name: str) -> Iterator[None]:
    """Decode by slots, by slots with recorded steps, or row by row."""

    def recorded(model: Any, *, is_draft: bool, slots: int) -> SlotRunner:
        return SlotRunner(model, is_draft=is_draft, slots=slots, recorded=True)

    changed: dict[str, Any] = {"recorded": {"SlotRunner": recorded}, "row by row": {"fits_slots": lambda _: False}}
    with mock.patch.multiple(runner, **changed[name]) if name in changed else nullcontext():
        yield


def written(target: Any, draft: Any, rows: list[list[int]], batch: int, speculative: bool) -> list[list[int]]:
    """The texts of the prompts, decoded in batches."""
    found = []
    for first in range(0, len(rows), batch):
        some = rows[first : first + batch]
        rounds = (
            speculative_decode(target, draft, some, SETTINGS) if speculative else plain_decode(target, some, SETTINGS)
        )
        found += texts(rounds, len(some))
    return found


def try_family(name: str, count: int) -> bool:
    """Print how many texts of each way are right; returns whether all are."""
    began, target, rows = time.perf_counter(), made(name, KINDS[name]), prompts(count)
    draft = blend(copy.deepcopy(target), made(name, KINDS[name], seed=9), 0.15)
    expected = [
        bare.generate(target, ids, SETTINGS.sampling, max_new_tokens=TOKENS, seed=0, stop_ids={1}) for ids in rows
    ]
    ways, right = ["slots", "recorded", "row by row"], {}
    if not slot_fit(target).side_by_side:
        ways = ways[2:]
    for way in ways:
        with path(way):
            for batch in (1, BATCH):
                for speculative in (False, True):
                    found = written(target, draft, rows, batch, speculative)
                    label = f"{way}, {'speculative' if speculative else 'plain'}, batch {batch}"
                    right[label] = sum(a == b for a, b in zip(found, expected, strict=True))
    wrong = [f"{label}: {number} of {count}" for label, number in right.items() if number < count]
    said = "; ".join(wrong) or f"{len(right)} ways, all {count} texts right"
    print(f"{name:22} {time.perf_counter() - began:5.0f} s  {said}", flush=True)
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(KINDS), help="families; all by default")
    parser.add_argument("--prompts", type=int, default=50)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = [try_family(name, asked.prompts) for name in asked.names]
    print(f"{sum(results)} of {len(results)} families write the reference's texts")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
