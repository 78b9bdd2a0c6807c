"""Which runs may be compared for which claim: equal in every fact but those that the claim is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from engine.measure.claims import LEAD, SEEDS, SIZE, Claim, Facts, facts_of

_WHERE = ("domain", "scenario", "train.mode", "loss")  # what names a cell for people

Side = tuple[tuple[str, int], ...]  # runs whose sums are added, each with its sign


@dataclass(frozen=True)
class Run:
    """A finished run with the facts that decide what it may be compared with."""

    id: str
    facts: Facts
    effort: Mapping[str, Any] = field(default_factory=dict)  # steps and tokens of its training
    config: Mapping[str, Any] = field(default_factory=dict)
    draft_sha256: str | None = None  # of the weights it was measured with

    @property
    def seed(self) -> tuple[Any, ...]:
        return tuple(self.facts.get(key) for key in SEEDS)


@dataclass(frozen=True)
class Pair:
    """One comparison under one seed. A side is a run, or a difference of two (`LEAD`)."""

    base: Side
    other: Side
    seed: tuple[Any, ...]
    base_draft: str = "trained"
    other_draft: str = "trained"

    @property
    def runs(self) -> list[str]:
        return [run for run, _ in (*self.base, *self.other)]


def select(runs: pd.DataFrame) -> tuple[list[Run], dict[str, int]]:
    """Runs that may take part, and how many of the others were left out for which reason.

    `runs`: run_id, state, archived, certificate, config and provenance and training (mappings),
    newest first.
    """
    left_out = {"not finished": 0, "archived": 0, "failed or without certificate": 0}
    chosen = []
    for row in runs.to_dict("records"):
        reason = _unfit(row)
        if reason:
            left_out[reason] += 1
            continue
        training = row.get("training") or {}
        effort = {key: training.get(key) for key in ("steps_done", "tokens_seen")}
        facts = facts_of(row["config"], row.get("provenance") or {})
        made = (row.get("provenance") or {}).get("measurement", {}).get("draft_sha256")
        chosen.append(Run(str(row["run_id"]), facts, effort | {"n_train": facts["n_train"]}, row["config"], made))
    return chosen, left_out


def _unfit(row: Mapping[Any, Any]) -> str | None:
    if row["archived"] is True:
        return "archived"
    if row["state"] != "done" or not row["config"]:
        return "not finished"
    # `== True` also holds for numpy's bool and not for NaN, which stands for "no certificate".
    return None if row["certificate"] == True else "failed or without certificate"  # noqa: E712


def pairs_of(claim: Claim, runs: Sequence[Run]) -> list[tuple[dict[str, Any], list[Pair]]]:
    """Comparable pairs of a claim, those of one cell together: (where it is, one pair a seed)."""
    if not claim.paired:
        return _generic_pairs(claim, runs)
    cells: dict[str, tuple[dict[str, Any], list[Pair]]] = {}
    for group in _alike(runs, claim):
        for where, pair in _lead_pairs(group) if claim is LEAD else _group_pairs(claim, group):
            cells.setdefault(_cell_key(group[0], claim, where), (where, []))[1].append(pair)
    return list(cells.values())


def _alike(runs: Iterable[Run], claim: Claim) -> list[list[Run]]:
    """Runs that are equal in all that the claim holds fixed, seeds included: newest first in each group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = repr(sorted((name, value) for name, value in run.facts.items() if not claim.may_differ(name)))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _cell_key(run: Run, claim: Claim, where: Mapping[str, Any]) -> str:
    fixed = {k: v for k, v in run.facts.items() if not claim.may_differ(k) and k not in SEEDS}
    return repr((sorted(fixed.items()), sorted(where.items(), key=str)))


def _group_pairs(claim: Claim, group: Sequence[Run]) -> list[tuple[dict[str, Any], Pair]]:
    if claim is SIZE:
        return _size_pairs(group)
    found = []
    others = [run for run in group if claim.is_other(run.facts)]
    bases = [run for run in group if claim.is_base(run.facts) and _counterpart(claim, run, others)]
    for name, base in _first_of_each(bases, "loss").items():
        other = _counterpart(claim, base, others)
        if other is not None:
            where = _where(other) | ({"against": name} if claim.breadth[0] == "against" else {})
            found.append((where, Pair(((base.id, 1),), ((other.id, 1),), other.seed)))
    return found


def _counterpart(claim: Claim, base: Run, others: Iterable[Run]) -> Run | None:
    """The newest of the others that really differs from the base."""
    return next((run for run in others if all(run.facts[k] != base.facts[k] for k in claim.must_differ)), None)


def _size_pairs(group: Sequence[Run]) -> list[tuple[dict[str, Any], Pair]]:
    sizes = _first_of_each([run for run in group if SIZE.is_base(run.facts)], "n_train")
    if len(sizes) < 2:
        return []
    least, most = min(sizes), max(sizes)
    where = _where(sizes[most]) | {"queries": f"{least} to {most}"}
    return [(where, Pair(((sizes[least].id, 1),), ((sizes[most].id, 1),), sizes[most].seed))]


def _lead_pairs(group: Sequence[Run]) -> list[tuple[dict[str, Any], Pair]]:
    """Offline less online at the least and at the most queries that both modes were trained on."""
    offline = _first_of_each([run for run in group if LEAD.is_other(run.facts)], "n_train")
    online = _first_of_each([run for run in group if LEAD.is_base(run.facts)], "n_train")
    common = sorted(size for size in offline.keys() & online.keys() if size)
    if len(common) < 2:
        return []
    sides = [((offline[size].id, 1), (online[size].id, -1)) for size in (common[0], common[-1])]
    where = _where(offline[common[-1]]) | {"queries": f"{common[0]} to {common[-1]}", "train.mode": "offline - online"}
    return [(where, Pair(sides[0], sides[1], offline[common[-1]].seed))]


def _generic_pairs(claim: Claim, runs: Sequence[Run]) -> list[tuple[dict[str, Any], list[Pair]]]:
    """A general draft on its own target against the same draft, untrained, at the start of a domain run.

    The draft is known by the hash of its weights, wherever it lies, or by its run's id.
    """
    bases = [run for run in reversed(runs) if claim.is_base(run.facts)]
    general = {name: run for run in bases for name in (run.id, run.draft_sha256) if name}
    cells: dict[str, tuple[dict[str, Any], list[Pair]]] = {}
    for run in runs:
        source = general.get(str(run.facts.get("draft.checkpoint")))
        if source is None or not claim.is_other(run.facts) or run.facts["target"] == source.facts["target"]:
            continue  # the same target on other prompts is another question
        where = {"domain": run.facts["domain"]}
        key = repr((run.facts["target"], source.facts["target"], run.facts["domain"], run.facts["heldout"]))
        cells.setdefault(key, (where, []))[1].append(
            Pair(((source.id, 1),), ((run.id, 1),), source.seed, other_draft="initial")
        )
    return [(where, _one_a_seed(pairs)) for where, pairs in cells.values()]


def _one_a_seed(pairs: Iterable[Pair]) -> list[Pair]:
    return list({pair.seed: pair for pair in reversed(list(pairs))}.values())


def _first_of_each(runs: Iterable[Run], key: str) -> dict[Any, Run]:
    found: dict[Any, Run] = {}
    for run in runs:
        found.setdefault(run.facts[key], run)
    return found


def _where(run: Run) -> dict[str, Any]:
    return {key: run.facts.get(key) for key in _WHERE}
