"""Row on captures: the target's answers to many prompts of different lengths, whose answers end when they end.

Ours is the whole capture, with the exact signal encoded and written to disk; the others write text alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.decoding import in_turn, waiting
from benchmarks.speed.generation import generate
from benchmarks.speed.pairs import Rounds, Way, interleave
from benchmarks.speed.record import Row, pairs_of, row_of
from benchmarks.speed.subjects import Subject
from engine.capture.plan import CapturePlan
from engine.capture.signal import signal_format
from engine.capture.store import Capture, make_capture
from engine.chat.prompt import Prompt
from engine.models.load import LoadedModel
from engine.progress import SILENT


def plan_of(
    folder: Path,
    target: LoadedModel,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    signal: str = "exact",
) -> CapturePlan:
    """A capture of prompts that are ids already, in this folder."""
    layout = signal_format(signal, target.model, 50)
    prompts = [Prompt(f"p{i:05}", ({"role": "user", "content": ""},)) for i in range(len(prompt_ids))]
    spec = {
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "max_new_tokens": max_new_tokens,
        "seed": 0,
        "signal": {"kind": layout.kind, "bytes_per_token": layout.bytes_per_token},
    }
    return CapturePlan(folder, spec, layout, prompts, [list(ids) for ids in prompt_ids])


def captured(plan: CapturePlan, target: LoadedModel, batch_size: int) -> Capture:
    """The capture of a plan whose folder does not exist yet."""
    return make_capture(plan, target, batch_size=batch_size, progress=SILENT)


def capture_row(
    subject: Subject,
    folder: Path,
    *,
    batch_size: int,
    prompts_a_round: int,
    max_new_tokens: int,
    rounds: Rounds,
    more_ways: Mapping[str, Way] | None = None,
    name: str = "capture",
    warm_up: int = 1,
) -> Row:
    """Tokens a second of a capture and of batched `generate`, on the same prompts.

    With embedded weights at temperature 0, where both write the same text; with random weights at temperature 1,
    where their lengths are drawn from one distribution. `generate` is given prompts of similar length together.
    """
    target, numbers = subject.target, itertools.count()
    temperature = 0.0 if subject.weights == "embedded" else 1.0
    stops = subject.stop_ids

    def texts(number: int) -> list[Sequence[int]]:
        return in_turn(subject.prompts, number, prompts_a_round)

    def ours(signal: str) -> Way:
        def way(number: int) -> float:
            place = folder / f"round-{next(numbers)}" / "capture"  # a folder beside it would be copied from
            limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "signal": signal}
            return float(captured(plan_of(place, target, texts(number), **limits), target, batch_size).tokens)

        return way

    def library(number: int) -> float:
        ordered, written = sorted(texts(number), key=len), 0
        for start in range(0, len(ordered), batch_size):
            answers = generate(
                subject.library_target,
                ordered[start : start + batch_size],
                max_new_tokens=max_new_tokens,
                stop_ids=stops,
                temperature=temperature,
            )
            written += sum(map(len, answers))
        return float(written)

    ways: dict[str, Way] = {"ours": ours("exact"), "generate": library}
    ratios = [("ours", "generate")]
    for other, way in (more_ways or {}).items():
        ways[other] = way
        if other == "baseline":  # which encodes and writes the signal as we do
            ratios.append(("ours", other))
        else:
            ways["without_signal"] = ours("none")
            ratios.append(("without_signal", other))
    paired = interleave(ways, rounds, unit="tokens", warm_up=warm_up, wait=waiting(target.device))
    conditions = {
        **subject.conditions,
        "batch": batch_size,
        "prompts a round": prompts_a_round,
        "tokens": max_new_tokens,
        "temperature": temperature,
    }
    return row_of(name, "The target's answers to many prompts", paired, pairs_of(*ratios), conditions)
