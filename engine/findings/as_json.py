"""Findings as plain values: the document that `draftbench findings --json` prints and every report is made from."""

from __future__ import annotations

import math
from typing import Any

from engine.catalogue import SERVERS
from engine.findings.claim import Claim
from engine.findings.efforts import MEANING
from engine.findings.evaluate import Cell, Finding, Outcome, Pooled
from engine.findings.home import HomeFindings
from engine.findings.runs import SEEDS, Run
from engine.findings.study_grid import MissingStudy
from engine.findings.verdicts import ENOUGH_SEEDS
from engine.findings.words import PAPER, PAPER_URL, sentence
from engine.measure.statistics import LEVEL
from engine.records.interval import Interval
from engine.records.provenance import Provenance

_EFFORT = ("steps_done", "tokens_seen", "n_train")


def as_json(evaluated: HomeFindings, study: str | None = None) -> dict[str, Any]:
    """Everything: the claims, the runs behind them with their origin, and what was left out."""
    used = sorted({run for finding in evaluated.findings for cell in finding.cells for run in cell.runs})
    known = {run.id: run for run in evaluated.runs}
    return {
        "paper": PAPER,
        "paper_url": PAPER_URL,
        "study": study,
        "metric": "exact acceptance: mean over positions of the target's own text of sum_v min(p, q)",
        "servers": {server.name: server.reports for server in SERVERS.values()},
        "interval": f"{LEVEL:.0%}, bootstrap over prompts, both sides on the same draws",
        "seeds_needed": ENOUGH_SEEDS,
        "runs_compared": evaluated.n_runs,
        "samples": evaluated.n_samples,
        "left_out": dict(evaluated.left_out),
        "claims": [claim_json(finding, evaluated) for finding in evaluated.findings],
        "runs": [run_json(evaluated, known[run_id]) for run_id in used],
    }


def claim_json(finding: Finding, evaluated: HomeFindings) -> dict[str, Any]:
    """One claim: verdict, headline, by effort, temperature and domain, cells, and the study that would decide it."""
    claim, headline = finding.claim, finding.headline
    study = evaluated.wanted[claim.key].study
    return {
        "key": claim.key,
        "number": claim.number,
        "title": claim.title,
        "statement": claim.statement,
        "of_paper": claim.of_paper,
        "rate": claim.rate,
        "paper_band": _band(claim),
        "base": claim.base,
        "other": claim.other,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "sentence": sentence(finding),
        "fairness": finding.fairness,
        "headline": pooled_json(headline.pooled),
        **(
            {"effort": headline.effort, "by_effort": [_effort(one) for one in finding.outcomes]}
            if claim.by_effort
            else {}
        ),
        **_parts(headline),
        "cells": [cell_json(cell) for cell in finding.cells],
        "would_decide": None if study is None else study_json(study),
    }


def _band(claim: Claim) -> dict[str, Any] | None:
    """As a change, and for what the paper states as a ratio too; seldom does it say which percent it means."""
    if claim.band is None:
        return None
    low, high = claim.band
    return {
        "change": [low, high],
        "ratio": [round(1 + low, 6), round(1 + high, 6)],
        "meant": claim.band_of[0] if len(claim.band_of) == 1 else "relative or absolute: not stated",
    }


def _effort(outcome: Outcome) -> dict[str, Any]:
    return {
        "effort": outcome.effort,
        "meaning": MEANING[outcome.effort],
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "headline": pooled_json(outcome.pooled),
        **_parts(outcome),
    }


def _parts(outcome: Outcome) -> dict[str, Any]:
    """The effect at each temperature alone, and in each domain alone."""
    return {
        "by_temperature": {f"{t:g}": pooled_json(pooled) for t, pooled in outcome.by_temperature.items()},
        "by_domain": {name: pooled_json(pooled) for name, pooled in outcome.by_domain.items()},
    }


def pooled_json(pooled: Pooled | None) -> dict[str, Any] | None:
    """An effect over several cells. `seeds`: those that all of its cells have."""
    if pooled is None:
        return None
    return {
        **_effects(pooled),
        "base_rate": pooled.base_rate,
        "other_rate": pooled.other_rate,
        "n_prompts": pooled.absolute.n_prompts,
        "temperatures": list(pooled.temperatures),
        "n_cells": pooled.n_cells,
        "n_runs": len(pooled.runs),
        "seeds": len(pooled.by_seed),
        "by_seed": list(pooled.by_seed),
        "verdict": pooled.verdict,
        "reason": pooled.reason,
    }


def cell_json(cell: Cell) -> dict[str, Any]:
    """One comparison with its runs; `counts` is false where it is shown but not judged."""
    seeds = [dict(zip(SEEDS, pair.seed, strict=True)) for pair in cell.pairs]
    sides = [{"base": [run for run, _ in pair.base], "other": [run for run, _ in pair.other]} for pair in cell.pairs]
    return {
        "where": {key: value for key, value in cell.where.items() if value},
        "temperature": cell.temperature,
        **({"effort": cell.effort} if cell.effort else {}),
        **_effects(cell),
        "base_rate": cell.base_rate,
        "other_rate": cell.other_rate,
        "n_prompts": cell.absolute.n_prompts,
        "seeds": len(cell.by_seed),
        "pairs": [
            {"seed": seed, **side, "absolute": value}
            for seed, side, value in zip(seeds, sides, cell.by_seed, strict=True)
        ],
        "runs": cell.runs,
        "verdict": cell.verdict,
        "reason": cell.reason,
        "remark": cell.remark,
        "counts": cell.counts,
    }


def _effects(of: Cell | Pooled) -> dict[str, Any]:
    """other / base, the same less one, and other - base; null where a ratio makes no sense."""
    relative = interval_json(of.relative)
    ratio = None if relative is None else interval_json(shifted(of.relative, 1.0))
    return {"ratio": ratio, "relative": relative, "absolute": interval_json(of.absolute)}


def interval_json(interval: Interval) -> dict[str, float | int] | None:
    """The fields by name; None for no value."""
    return None if math.isnan(interval.value) else interval.as_dict()


def shifted(interval: Interval, by: float) -> Interval:
    """The interval with `by` added to value and bounds: a change as a ratio."""
    return Interval(interval.value + by, interval.low + by, interval.high + by, interval.n_prompts)


def run_json(evaluated: HomeFindings, run: Run) -> dict[str, Any]:
    """Where a number comes from: recipe, commit, seeds, hashes, and how much was trained."""
    part = evaluated.taking_part
    origin = part.provenance.get(run.id, Provenance())
    source, prompts = origin.source, origin.prompts
    return {
        "run": run.id,
        "title": part.titles.get(run.id),
        "domain": run.facts["domain"],
        "scenario": run.facts["scenario"],
        "mode": run.facts["train.mode"],
        "loss": run.facts["loss"],
        "command": " ".join(origin.command),
        "commit": source.commit or None,
        "changed": source.changed,
        "seeds": origin.seeds.document() or None,
        "target_fingerprint": origin.target_fingerprint,
        "draft_sha256": run.draft_sha256,
        "train_hash": prompts.train_hash,
        "heldout_hash": prompts.heldout_hash,
        **{key: run.effort.get(key) for key in _EFFORT},
    }


def study_json(study: MissingStudy) -> dict[str, Any]:
    """The study that would decide a claim; `commands` are the runs to begin with, where they are a few."""
    return {"why": study.why, "new_runs": study.n_runs, "recipe": study.text, "commands": list(study.commands)}
