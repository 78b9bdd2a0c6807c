"""Which runs would decide a claim: what to change in a run that exists, and which pairs are nearly comparable."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.findings.claims import BEST_LOSS, GENERIC, LEAD, MODE, SCENARIO, SEEDS, SIZE, SUPERVISION, Claim
from engine.findings.evaluate import Cell, Finding
from engine.findings.pairs import Run
from engine.findings.verdicts import ENOUGH_SEEDS

_NEAR = ("target", "domain", "heldout")  # what two nearly comparable runs must have in common
_MOST = 4


@dataclass(frozen=True)
class Wanted:
    """A run that is missing: made like `run`, with these keys set. Upper-case words are for the reader to fill in."""

    what: str
    run: str
    changes: tuple[str, ...]


def wanted(finding: Finding, runs: Sequence[Run]) -> list[Wanted]:
    """Runs that would decide the finding, at most a few; none if there is no run to start from.

    More general drafts are asked for as a study only: see `wanted_study`.
    """
    if not runs:
        return []
    counted = [cell for cell in finding.headline.cells if cell.counts]
    short = [cell for cell in counted if len(cell.pairs) < ENOUGH_SEEDS]
    if short and finding.claim is GENERIC:
        return []
    if short:
        return _more_seeds(max(short, key=lambda cell: len(cell.pairs)), {run.id: run for run in runs})
    if counted:  # enough of each, but perhaps not of enough domains or losses
        return []
    start = next(
        (run for run in runs if finding.claim.is_other(run.facts) or finding.claim.is_base(run.facts)), runs[0]
    )
    return _counterparts(finding.claim, start)[:_MOST]


def command(missing: Wanted, runs_folder: Path) -> str:
    """The line that makes the missing run."""
    recipe = runs_folder / missing.run / "config.yaml"
    changes = " ".join(f"--set {shlex.quote(change)}" for change in missing.changes)
    return f"draftbench run {shlex.quote(str(recipe))} {changes}"


def _more_seeds(cell: Cell, known: dict[str, Run]) -> list[Wanted]:
    """The same pair under seeds that it was not run with."""
    used = {run.facts["train.seed"] for run in (known[id_] for id_ in cell.runs)}
    new = [str(seed) for seed in range(100) if str(seed) not in map(str, used)][
        : max(0, ENOUGH_SEEDS - len(cell.pairs))
    ]
    return [
        Wanted(f"{known[run].facts['loss']}, seed {seed}", run, (f"train.seed={seed}",))
        for seed in new
        for run in dict.fromkeys(cell.pairs[0].runs)
    ][:_MOST]


def _counterparts(claim: Claim, run: Run) -> list[Wanted]:
    """What has to be changed in `run` to get the other side, and this side too where it is neither."""
    if claim is SUPERVISION:
        return [_with_loss(run, name) for name in ("sft", "forward_kl") if run.facts["loss"] != name]
    if claim is BEST_LOSS:
        return [_with_loss(run, name) for name in ("forward_kl", "reverse_kl", "tvd") if run.facts["loss"] != name]
    if claim in (MODE, LEAD):
        other = "online" if run.facts["train.mode"] == "offline" else "offline"
        return [Wanted(f"{other} training", run.id, (f"train.mode={other}",))]
    if claim is SCENARIO:
        return [
            Wanted(
                f"{name} queries",
                run.id,
                (f"prompts.scenario={name}", f"prompts.train=YOUR_{name.upper()}_PROMPTS.jsonl"),
            )
            for name in ("historical", "synthetic")
            if run.facts["scenario"] != name
        ]
    if claim is SIZE:
        return [_with_fewer_queries(run, part) for part in (4, 2)]
    return _domain_run(run) if claim is GENERIC else []


def _with_loss(run: Run, name: str) -> Wanted:
    return Wanted(f"the same with {name}", run.id, (f"train.loss={name}",))


def _with_fewer_queries(run: Run, part: int) -> Wanted:
    count = max(1, int(run.facts["n_train"] or part) // part)
    return Wanted(f"the same with {count:,} queries", run.id, (f"prompts.train_prompts={count}",))


def _domain_run(run: Run) -> list[Wanted]:
    if not GENERIC.is_base(run.facts):
        return [
            Wanted(
                "a draft on general queries first",
                run.id,
                (
                    "prompts.domain=general",
                    "prompts.train=sample_data/prompts/general/train.jsonl",
                    "prompts.heldout=sample_data/prompts/general/heldout.jsonl",
                ),
            )
        ]
    return [
        Wanted(
            "the general draft under a domain target",
            run.id,
            (
                "target.model=YOUR_DOMAIN_MODEL",
                "prompts.domain=YOUR_DOMAIN",
                "prompts.train=YOUR_PROMPTS.jsonl",
                "prompts.heldout=YOUR_HELDOUT.jsonl",
                "draft.init=checkpoint",
                f"draft.checkpoint={run.id}",
            ),
        )
    ]


def near_misses(claim: Claim, runs: Sequence[Run], most: int = 3) -> list[tuple[str, str, dict[str, tuple[Any, Any]]]]:
    """Pairs on the same target, domain and held-out prompts that differ in a little too much: (base, other, facts).

    The nearest first. Empty for claims whose sides are not told apart by a fact of their own.
    """
    if claim in (SIZE, LEAD, GENERIC):
        return []
    found = []
    for base in [run for run in runs if claim.is_base(run.facts)][:20]:
        for other in [run for run in runs if claim.is_other(run.facts)][:20]:
            if any(base.facts[key] != other.facts[key] for key in _NEAR):
                continue
            odd = {
                key: (base.facts.get(key), other.facts.get(key))
                for key in sorted(base.facts.keys() | other.facts.keys())
                if base.facts.get(key) != other.facts.get(key) and not claim.may_differ(key)
            }
            if 0 < len(odd) <= 4 and not set(odd) <= set(SEEDS):
                found.append((base.id, other.id, odd))
    return sorted(found, key=lambda item: len(item[2]))[:most]
