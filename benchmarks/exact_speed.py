"""How long it takes to know a draft's acceptance to +-.01: by `exact` on captured text, and by decoding and counting.

    python benchmarks/exact_speed.py             # the function-calling target and the draft that ships for it
    python benchmarks/exact_speed.py --run RUN   # target, draft, prompts and sampling of a run

The same prompts in both ways, block by block in turn: the exact acceptance of the target's own text, which is captured
once for all drafts; and speculative decoding in a batch, accepted over judged tokens. From the seconds, and from how
much prompts differ, follows the time after which the 95% interval is as narrow as wanted: it narrows with the root of
the number of prompts. The capture is not part of the first way; `with the capture` is the same ratio with its time
added, as for a single draft that is measured once. Takes about two minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.capture.answered import AnsweredPrompt
from engine.capture.plan import plan_capture
from engine.capture.store import Capture, make_capture
from engine.config.reading import parse_section
from engine.config.schema import DEFAULT_TARGET, CaptureSpec, MeasureSpec, ModelSpec, PromptSource, Recipe
from engine.data.readers import read_prompts
from engine.decode.counts import count
from engine.measure.acceptance import exact_acceptance
from engine.measure.statistics import SAMPLES
from engine.measure.suite import Pair, decode_settings, trace_prompts
from engine.models.draft import load_draft
from engine.models.head import Head
from engine.models.load import load_model
from engine.paths import PROJECT_ROOT, home
from engine.progress import Progress
from engine.runs.folder import RunFolder

GOAL = 20.0
NORMAL = 1.96  # standard deviations of a 95% interval
TARGET = ModelSpec(model=DEFAULT_TARGET, adapter="sample_data/targets/function_calling")
HELDOUT = "sample_data/prompts/function_calling/heldout.jsonl"
DRAFT = "sample_data/runs/serve-function-calling-*/draft/best"


@dataclass(frozen=True)
class Way:
    """One way to know an acceptance rate: what it took and what it gave, a value per prompt in each list."""

    seconds: np.ndarray[Any, Any]  # a block's, shared out over its prompts
    accepted: np.ndarray[Any, Any]
    judged: np.ndarray[Any, Any]

    def rate(self, weights: np.ndarray[Any, Any]) -> Any:
        """Accepted over judged. weights: [..., prompt], how often each prompt is counted -> [...]"""
        return weights @ self.accepted / (weights @ self.judged)

    def half_width(self, weights: np.ndarray[Any, Any]) -> Any:
        """Half of the 95% interval of a ratio of sums over prompts, by its linear approximation. [...]"""
        residuals = self.accepted - self.rate(weights)[..., None] * self.judged
        return NORMAL * np.sqrt((weights * residuals**2).sum(-1)) / (weights @ self.judged)

    def seconds_to(self, half_width: float, weights: np.ndarray[Any, Any]) -> Any:
        """Seconds until the interval has this half width, at this pace: it narrows with the root of the prompts."""
        return weights @ self.seconds * (self.half_width(weights) / half_width) ** 2


def compared(
    exact: Way, decoding: Way, capture_s: float, half_width: float, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Both ways, and how many times faster exact acceptance is known; intervals by resampling the prompts."""
    prompts = len(exact.seconds)
    drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=samples).astype(float)
    weights = np.concatenate([np.ones((1, prompts)), drawn])  # the prompts as they are come first
    captured = Way(exact.seconds + capture_s / prompts, exact.accepted, exact.judged)
    wanted = {name: way.seconds_to(half_width, weights) for name, way in (("exact", exact), ("decoding", decoding))}
    with_capture = captured.seconds_to(half_width, weights)
    return {
        "prompts": prompts,
        "half_width": half_width,
        "capture_s": capture_s,
        **{name: _in_figures(way, wanted[name][0]) for name, way in (("exact", exact), ("decoding", decoding))},
        "ratio": _interval(wanted["decoding"] / wanted["exact"]),
        "ratio_with_capture": _interval(wanted["decoding"] / with_capture),
        "goal": GOAL,
    }


def _in_figures(way: Way, wanted_s: float) -> dict[str, float]:
    all_once = np.ones(len(way.seconds))
    return {
        "rate": float(way.rate(all_once)),
        "half_width": float(way.half_width(all_once)),
        "seconds": float(way.seconds.sum()),
        "seconds_to_half_width": float(wanted_s),
    }


def _interval(values: np.ndarray[Any, Any]) -> dict[str, float]:
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def timed_both_ways(
    pair: Pair,
    capture: Capture,
    answers: Sequence[AnsweredPrompt],
    settings: MeasureSpec,
    temperature: float,
    block: int,
) -> tuple[Way, Way]:
    """Each block of prompts in both ways, the one that goes first changing from block to block."""
    decoding, head = decode_settings(settings, temperature, pair.target.stop_ids, 0.0), Head.of(pair.target.model)

    def exact(part: Sequence[AnsweredPrompt]) -> list[tuple[float, float]]:
        results = exact_acceptance(pair.draft.model, head, capture, decoding.sampling, part)
        return [(float(r.overlap.double().sum()), float(len(r.token_ids))) for r in results]

    def decoded(part: Sequence[AnsweredPrompt]) -> list[tuple[float, float]]:
        rounds = trace_prompts(pair, part, decoding, alternatives=0)
        rows = [count([r for r in rounds if r.row == row]) for row in range(len(part))]
        return [(float(row.accepted), float(row.accepted + row.rejected)) for row in rows]

    ways = {"exact": exact, "decoding": decoded}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way(answers[:2])  # warm-up
    for number, start in enumerate(range(0, len(answers), block)):
        part = answers[start : start + block]
        for name in list(ways)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            results = ways[name](part)
            seconds = (time.perf_counter() - began) / len(part)
            measured[name] += [(seconds, *result) for result in results]
    exact_way, decoding_way = (Way(*np.array(measured[name]).T) for name in ways)
    return exact_way, decoding_way


def exact_speed(
    recipe: Recipe | None = None,
    draft: Path | None = None,
    *,
    prompts: int = 36,
    tokens: int = 64,
    temperature: float = 1.0,
    block: int = 12,
    half_width: float = 0.01,
) -> dict[str, Any]:
    """Measure a pair, by default the one that ships for function calling; the figures of `compared`."""
    target = load_model(recipe.target if recipe else TARGET)
    folder = draft or next(iter(sorted(PROJECT_ROOT.glob(DRAFT))))
    pair = Pair(target, load_draft(folder, target))
    sources = recipe.prompts.heldout if recipe else [PromptSource(path=HELDOUT)]
    asked = read_prompts(list(sources)).prompts[:prompts]
    gamma = recipe.measure.num_draft_tokens if recipe else 3
    settings = MeasureSpec(num_draft_tokens=gamma, max_new_tokens=tokens)
    spec = parse_section(CaptureSpec, {"max_new_tokens": tokens, "temperature": temperature})
    with tempfile.TemporaryDirectory() as captures:
        plan = plan_capture(Path(captures), target, asked, spec)
        began = time.perf_counter()
        capture = make_capture(plan, target, batch_size=32, progress=Progress(quiet=True))
        capture_s = time.perf_counter() - began
        exact, decoding = timed_both_ways(pair, capture, capture.answers, settings, temperature, block)
    figures = compared(exact, decoding, capture_s, half_width)
    return {"temperature": temperature, "num_draft_tokens": gamma, "dtype": target.dtype_name, **figures}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; 0 if the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run whose target, best draft and held-out prompts are taken")
    parser.add_argument("--prompts", type=int, default=36, help="held-out prompts, the first ones")
    parser.add_argument("--tokens", type=int, default=64, help="length limit of an answer")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the text")
    parser.add_argument("--block", type=int, default=12, help="prompts between two turns, decoded together")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    args = parser.parse_args(argv)
    run = RunFolder.open(home(), args.run) if args.run else None
    result = exact_speed(
        run.recipe() if run else None,
        run.path / "draft" / "best" if run else None,
        prompts=args.prompts,
        tokens=args.tokens,
        temperature=args.temperature,
        block=args.block,
    )
    print(json.dumps(result, indent=2) if args.json else in_words(result))
    return 0 if result["ratio"]["value"] >= GOAL else 1


def in_words(result: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [f"{result['prompts']} prompts, T={result['temperature']:g}, {result['dtype']}"]
    for name in ("exact", "decoding"):
        way = result[name]
        lines.append(
            f"{name:9s} {way['rate']:.3f} +-{way['half_width']:.3f} in {way['seconds']:.1f} s: "
            f"+-{result['half_width']:g} after {way['seconds_to_half_width']:.1f} s"
        )
    for name, words in (("ratio", "exact is known"), ("ratio_with_capture", "with the capture, exact is known")):
        found = result[name]
        lines.append(f"{words} {found['value']:.1f} [{found['low']:.1f}, {found['high']:.1f}] times sooner")
    return "\n".join(lines) + f" (goal {result['goal']:g})"


if __name__ == "__main__":
    sys.exit(main())
