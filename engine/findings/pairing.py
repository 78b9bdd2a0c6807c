"""Which runs may be compared for which claim: equal in every fact but those that the claim is about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from engine.findings.claims import MODE, SEEDS, SIZE, Claim, facts_of, of_schedule
from engine.findings.efforts import Usual, schedule
from engine.findings.mode_pairs import lead_pairs, mode_pairs
from engine.findings.pairs import Found, Pair, Place, Run, first_of_each, where_of
from engine.records.training import Training

DAMAGED = "damaged"  # why a run was left out whose notes or sums make no sense


def select(runs: pd.DataFrame) -> tuple[list[Run], dict[str, int]]:
    """Runs that may take part, and how many of the others were left out for which reason.

    `runs`: as `engine.index.queries.studied`, newest first.
    """
    left_out = {"not finished": 0, "archived": 0, "failed or without certificate": 0}
    chosen = []
    for row in runs.to_dict("records"):
        reason = _unfit(row)
        if reason:
            left_out[reason] += 1
            continue
        try:
            chosen.append(_run(row))
        except Exception:  # of what one run has noted: the others take part
            left_out[DAMAGED] = left_out.get(DAMAGED, 0) + 1
    return chosen, left_out


def _run(row: Mapping[Any, Any]) -> Run:
    """Raises if what the run has noted is not of the kind that a run notes."""
    training, provenance = row["training"], row["provenance"]
    effort = {key: getattr(training, key) for key in ("steps_done", "tokens_seen", "best_step")}
    facts = facts_of(row["config"], provenance)
    effort |= {"n_train": facts["n_train"], "evaluations": _evaluations(row["config"], training)}
    hash(tuple(facts.values()))  # they are compared, and are keys
    measured = provenance.measurement
    return Run(str(row["run_id"]), facts, effort, row["config"], measured.draft_sha256 if measured else None)


def _evaluations(config: Mapping[str, Any], training: Training) -> int | None:
    """From how many evaluations the best draft was chosen: before the first step, every so many, after the last."""
    steps, every = training.steps_done, config.get("train", {}).get("eval_every")
    return 1 + math.ceil(steps / every) if steps and every else None


def _unfit(row: Mapping[Any, Any]) -> str | None:
    if row["archived"] is True:
        return "archived"
    if row["state"] != "done" or not row["config"]:
        return "not finished"
    # `== True` also holds for numpy's bool and not for NaN, which stands for "no certificate".
    return None if row["certificate"] == True else "failed or without certificate"  # noqa: E712


def pairs_of(claim: Claim, runs: Sequence[Run]) -> list[Place]:
    """The places in which a claim can be tested, each with its comparable pairs. `runs`: newest first.

    Of repetitions that are equal in everything, seeds included, the newest counts.
    """
    if not claim.paired:
        return _generic_places(claim, runs)
    usual = Usual(runs)
    places: dict[str, Place] = {}
    for group in _alike(runs, claim):
        for found in _pairs_in(claim, group, usual):
            key = _place_key(claim, group[0], found.where)
            whole = repr((key, found.effort, found.schedule))
            place = places.setdefault(whole, Place(found.where, [], key, found.effort, found.schedule, found.rank))
            place.pairs.append(found.pair)
    return list(places.values())


def _pairs_in(claim: Claim, group: Sequence[Run], usual: Usual) -> list[Found]:
    if claim.by_effort:
        return mode_pairs(group, usual) if claim is MODE else lead_pairs(group, usual)
    return _size_pairs(group, usual) if claim is SIZE else _group_pairs(claim, group, usual)


def _alike(runs: Iterable[Run], claim: Claim) -> list[list[Run]]:
    """Runs that are equal in all that the claim holds fixed, seeds included: newest first in each group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = repr(sorted((name, value) for name, value in run.facts.items() if not claim.may_differ(name)))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _place_key(claim: Claim, run: Run, where: Mapping[str, Any]) -> str:
    """Equal for pairs of one place under other seeds and schedules."""
    fixed = {k: v for k, v in run.facts.items() if not claim.may_differ(k) and not of_schedule(k) and k not in SEEDS}
    return repr((sorted(fixed.items()), sorted(where.items(), key=str)))


def _found(base: Run, other: Run, usual: Usual, **where: Any) -> Found:
    pair = Pair(((base.id, 1),), ((other.id, 1),), other.seed)
    return Found(where_of(other) | where, pair, schedule(other), usual.rank(other))


def _group_pairs(claim: Claim, group: Sequence[Run], usual: Usual) -> list[Found]:
    others = [run for run in group if claim.is_other(run.facts)]
    bases = [run for run in group if claim.is_base(run.facts)]
    found = []
    for base in first_of_each(bases, "loss", "n_train").values():
        other = _counterpart(claim, base, others, bases)
        if other is not None:
            against = {"against": base.facts["loss"]} if claim.breadth[0] == "against" else {}
            found.append(_found(base, other, usual, queries=_queries(base, other), **against))
    return found


def _counterpart(claim: Claim, base: Run, others: Sequence[Run], bases: Sequence[Run]) -> Run | None:
    """The other run that the base is to be compared with: really another, and of the nearest number of queries.

    A run of 50 queries must not be compared with one of 200 where another base has 200: each must be the
    nearest of the other. The newest of equally near ones.
    """
    different = [run for run in others if all(run.facts[k] != base.facts[k] for k in claim.must_differ)]
    if not different:
        return None
    chosen = min(different, key=lambda run: _apart(run, base))
    rivals = [run for run in bases if all(chosen.facts[k] != run.facts[k] for k in claim.must_differ)]
    return chosen if _apart(chosen, base) <= min(_apart(chosen, run) for run in rivals) else None


def _apart(a: Run, b: Run) -> float:
    """How far two numbers of queries lie apart, as the absolute logarithm of their ratio."""
    one, two = a.facts.get("n_train") or 1, b.facts.get("n_train") or 1
    return abs(math.log(one / two))


def _queries(base: Run, other: Run) -> str:
    sizes = [str(run.facts["n_train"]) for run in (base, other) if run.facts.get("n_train")]
    return " and ".join(dict.fromkeys(sizes))


def _size_pairs(group: Sequence[Run], usual: Usual) -> list[Found]:
    """The least against the most queries; runs of sizes between are in the figure."""
    sizes = {key[0]: run for key, run in first_of_each([r for r in group if SIZE.is_base(r.facts)], "n_train").items()}
    if len(sizes) < 2:
        return []
    least, most = min(sizes), max(sizes)
    return [_found(sizes[least], sizes[most], usual, queries=f"{least} to {most}")]


def _generic_places(claim: Claim, runs: Sequence[Run]) -> list[Place]:
    """A general draft on its own target against the same draft, untrained, at the start of a domain run.

    The draft is known by the hash of its weights, wherever it lies, or by its run's id. What the run went
    on to do does not matter, so of all that started from the draft the newest stands for its seed.
    """
    bases = [run for run in reversed(runs) if claim.is_base(run.facts)]
    general = {name: run for run in bases for name in (run.id, run.draft_sha256) if name}
    places: dict[str, Place] = {}
    for run in runs:
        source = general.get(str(run.facts.get("draft.checkpoint")))
        if source is None or not claim.is_other(run.facts) or run.facts["target"] == source.facts["target"]:
            continue  # the same target on other prompts is another question
        measured = [(name, run.facts[name]) for name in sorted(run.facts) if name.startswith("measure.")]
        key = repr((run.facts["target"], source.facts["target"], run.facts["domain"], run.facts["heldout"], measured))
        place = places.setdefault(key, Place({"domain": run.facts["domain"]}, [], key))
        if source.seed not in {pair.seed for pair in place.pairs}:
            place.pairs.append(Pair(((source.id, 1),), ((run.id, 1),), source.seed, other_draft="initial"))
    return list(places.values())
