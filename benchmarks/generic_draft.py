"""Which shape of draft gives the best speed-up: acceptance of trained drafts with their costs measured side by side.

    python benchmarks/generic_draft.py                 # all runs named grid in this home
    python benchmarks/generic_draft.py --runs grid --prompts 6 --tokens 48

The runs are made by the commands in recipes/drafts/grid.yaml. The cost of a draft does not depend on its training, so
all shapes are timed in one process, in turn, prompt by prompt, each beside plain decoding of the same prompt. `exact`
is that of the last evaluation on the watched held-out prompts. The table gives c and the best speed-up over gamma 1 to
8 that the measured times predict.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.config.schema import Recipe
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.measure import speed
from engine.measure.cost_model import speedup_table
from engine.models.draft import load_draft
from engine.models.load import load_model
from engine.paths import home
from engine.progress import SILENT
from engine.records.speed import ForwardSeconds
from engine.runs.folder import RunFolder
from engine.runs.plan import plan_heldout, split_prompts
from engine.runs.session import capture

GAMMA, MOST_GAMMA = 3, 8


@dataclass
class Shape:
    """A finished run and the seconds of its draft's forwards."""

    run: RunFolder
    recipe: Recipe
    times: list[ForwardSeconds] = field(default_factory=list)

    def exact(self) -> dict[float, float]:
        """The last evaluation of the training, by temperature."""
        lines = (self.run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return {e["temperature"]: e["exact"] for e in map(json.loads, lines) if e["kind"] == "eval"}

    def row(self) -> dict[str, Any]:
        """The run's line of the table; seconds are medians over the prompts."""
        seconds = {
            name: statistics.median(getattr(t, name) for t in self.times)
            for name in ("plain_s", "draft_s", "verify_s", "overhead_s")
        }
        slope = (seconds["verify_s"] - seconds["plain_s"]) / GAMMA
        row: dict[str, Any] = {
            "run": self.run.id,
            "layers": self.recipe.draft.layers,
            "vocabulary": self.recipe.draft.vocabulary or "all",
            "c": statistics.median(t.cost_ratio for t in self.times),
        }
        for temperature, alpha in self.exact().items():
            table = speedup_table(
                alpha,
                MOST_GAMMA,
                plain_s=seconds["plain_s"],
                draft_s=seconds["draft_s"],
                verify_s=lambda g: seconds["plain_s"] + max(0.0, slope) * g,
                overhead_s=seconds["overhead_s"],
            )
            best = max(table, key=lambda line: line.measured)
            row[f"exact T={temperature:g}"] = alpha
            row[f"speed-up T={temperature:g}"] = best.measured
            row[f"gamma T={temperature:g}"] = best.gamma
        return row


def time_shapes(shapes: list[Shape], prompts: int, tokens: int) -> None:
    """Adds to each shape the times of its forwards on each prompt; shapes take turns."""
    recipe = shapes[0].recipe
    target = load_model(recipe.target)
    drafts = [load_draft(s.run.path / "draft" / "best", target).model for s in shapes]
    plans = plan_heldout(home().captures, recipe, target, split_prompts(recipe, target))
    plan = plans[min(recipe.measure.temperatures)]
    answers = capture("held-out", plan, target, recipe.capture, SILENT).answers[:prompts]
    for number, answer in enumerate(answers):
        order = list(zip(shapes, drafts, strict=True))
        for shape, draft in order[number % len(order) :] + order[: number % len(order)]:
            timed = speed.time_ways(
                target.model,
                draft,
                {answer.prompt_id: answer.prompt_ids},
                DecodeSettings(Sampling(0.0), FixedLength(GAMMA), tokens, frozenset()),
                ways=["plain", "speculative"],
            )
            shape.times.append(speed.forward_times(timed, GAMMA))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="grid", help="name of the runs to compare")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = [RunFolder(p) for p in sorted(home().runs.glob(f"{arguments.runs}-*")) if (p / "training.json").exists()]
    shapes = [Shape(run, run.recipe()) for run in runs]
    if not shapes:
        parser.error(f"no finished run named {arguments.runs} in {home().runs}: see recipes/drafts/grid.yaml")
    time_shapes(shapes, arguments.prompts, arguments.tokens)
    rows = sorted((shape.row() for shape in shapes), key=lambda row: -max(v for k, v in row.items() if "speed-up" in k))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")


if __name__ == "__main__":
    main()
