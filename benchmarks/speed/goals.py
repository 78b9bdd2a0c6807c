"""What each figure should reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.speed.record import Figure, Report, Row

Verdict = Literal["met", "missed", "not measured"]


@dataclass(frozen=True)
class Goal:
    """A bound on one figure of one row. `most`: the figure must not be above the bound, else not below it."""

    device: str
    work: str
    row: str
    figure: str
    bound: float
    most: bool = False

    @property
    def in_words(self) -> str:
        return f"{'<=' if self.most else '>='} {self.bound:g}"

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound


@dataclass(frozen=True)
class Judged:
    """A goal and what was measured. `surely`: the whole interval is on the goal's side."""

    goal: Goal
    verdict: Verdict
    figure: Figure | None = None
    row: Row | None = None
    surely: bool = False
    why_not: str = ""

    @property
    def share(self) -> float:
        """How much of the goal was reached: 1 where it was just met, below 1 where it was missed."""
        assert self.figure is not None
        pair = (self.goal.bound, self.figure.value) if self.goal.most else (self.figure.value, self.goal.bound)
        return pair[0] / pair[1] if pair[1] else float(self.verdict == "met")


def _cpu(work: str, row: str, figure: str, bound: float, *, most: bool = False) -> Goal:
    return Goal("cpu", work, row, figure, bound, most)


def _gpu(work: str, row: str, figure: str, bound: float, *, most: bool = False) -> Goal:
    return Goal("cuda", work, row, figure, bound, most)


_DOMAINS = ("function_calling", "biology", "chinese")

GOALS: Sequence[Goal] = (
    _cpu("plain decoding over `generate`", "decode", "plain/generate", 1.3),
    _cpu("prompts at which plain decoding and `generate` write the same ids", "decode", "same_text", 1),
    _cpu("plain decoding with int8 weights over `generate`", "int8", "int8/generate", 1.8),
    _cpu("speculative over assisted `generate`, gamma 2", "decode", "speculative_2/assisted_2", 2),
    _cpu("speculative over assisted `generate`, gamma 3", "decode", "speculative_3/assisted_3", 2),
    _cpu("speculative, of what its forwards and acceptance allow, gamma 2", "decode", "reached_2", 0.9),
    _cpu("speculative, of what its forwards and acceptance allow, gamma 3", "decode", "reached_3", 0.9),
    *(_cpu(f"speculative over plain, {name}", f"domain_{name}", "speculative/plain", 1) for name in _DOMAINS),
    *(_cpu(f"speculative over plain, batch {n}", "batches", f"speculative_{n}/plain_{n}", 1) for n in (1, 4, 8)),
    _cpu("capture with signal over batched `generate`", "capture", "ours/generate", 2),
    _cpu("capture without signal over vLLM", "capture", "without_signal/vllm", 0.8),
    _cpu("training over TRL's GKD trainer", "training", "ours/trl", 20),
    _cpu("training over the baseline", "training", "ours/baseline", 2.2),
    _cpu("memory of training, of TRL's", "training", "memory/trl", 1 / 3, most=True),
    _cpu("`exact` to +-.01 over decoding to the same width", "exact", "exact/decoding", 20),
    _cpu("quickstart, whole, seconds", "quickstart", "whole_s", 150, most=True),
    _cpu("`draftbench --help`, seconds", "start", "help_s", 0.3, most=True),
    _cpu("`draftbench runs`, seconds", "start", "runs_s", 0.3, most=True),
    _cpu("`draftbench --help` imports torch", "start", "help_torch", 0, most=True),
    _cpu("`draftbench runs` imports torch", "start", "runs_torch", 0, most=True),
    _gpu("plain decoding over compiled static `generate`", "decode", "plain/static", 1.3),
    _gpu("plain step of the 8B shape, of the bandwidth limit", "large", "step/limit", 1.4, most=True),
    _gpu("verification of 6 tokens, plain steps", "verify", "verify_6", 1.2, most=True),
    _gpu("verification of 6 tokens, plain steps, 8B shape", "verify_large", "verify_6", 1.2, most=True),
    _gpu("overhead of a round, gamma 3", "decode", "overhead_3", 0.03, most=True),
    _gpu("speculative over plain, the quickstart's pair", "quickstart", "speedup", 1.3),
    *(_gpu(f"speculative over plain, batch {n}", "batches", f"speculative_{n}/plain_{n}", 1) for n in (4, 8)),
    _gpu("capture, tokens/s", "capture", "ours", 40_000),
    _gpu("capture over batched `generate`", "capture", "ours/generate", 5),
    _gpu("training, body, head and loss, positions/s", "inner", "ours", 400_000),
    _gpu("training, whole trainer, response tokens/s", "trainer", "ours", 100_000),
    _gpu("quickstart, whole, seconds", "quickstart", "whole_s", 25, most=True),
)


def judged(reports: Iterable[Report], device: str) -> list[Judged]:
    """Every goal of a device kind against the newest row that has its figure."""
    rows: dict[str, Row] = {}
    skipped: dict[str, str] = {}
    for report in sorted((r for r in reports if r.device == device), key=lambda r: r.began):
        skipped |= report.skipped
        rows |= {row.name: row for row in report.rows}
    return [_judge(goal, rows.get(goal.row), skipped.get(goal.row, "")) for goal in GOALS if goal.device == device]


def _judge(goal: Goal, row: Row | None, why_not: str) -> Judged:
    figure = row.figures.get(goal.figure) if row else None
    if row is None or figure is None:
        return Judged(goal, "not measured", row=row, why_not=why_not)
    worse = figure.high if goal.most else figure.low
    surely = goal.met_by(figure.value if worse is None else worse)
    return Judged(goal, "met" if goal.met_by(figure.value) else "missed", figure, row, surely)
