"""Pairs of an online and an offline run, at each kind of effort; and how offline's lead changes with the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.findings.efforts import EFFORTS, OWN, Usual, efforts_of, schedule
from engine.findings.pairs import Found, Pair, Run, where_of

_Twins = tuple[Run, Run, str]  # online, offline, kind of effort


def mode_pairs(group: Sequence[Run], usual: Usual) -> list[Found]:
    """Every stream of the group against the offline run of each kind of effort.

    `group`: runs equal in all but mode and schedule, newest first. Where several offline runs are of
    one kind, the usual schedule is taken; that is worked out over all runs, so it is the same one under
    every seed.
    """
    return [
        Found(
            where_of(offline) | {"queries": online.facts.get("n_train")},
            Pair(((online.id, 1),), ((offline.id, 1),), offline.seed),
            _schedules(online, offline, effort),
            (usual.rank(online), usual.rank(offline)),
            effort,
        )
        for online, offline, effort in _twins(group, usual)
    ]


def lead_pairs(group: Sequence[Run], usual: Usual) -> list[Found]:
    """Offline less online at the least and at the most queries that both modes were trained on, per kind of effort."""
    leads: dict[tuple[str, str], dict[int, _Twins]] = {}
    for size in sorted({run.facts["n_train"] for run in group if run.facts["n_train"]}):
        for twins in _twins([run for run in group if run.facts["n_train"] == size], usual):
            if twins[1].facts["loss"] == "forward_kl":  # which is what the claim speaks of
                leads.setdefault((_schedules(*twins), twins[2]), {})[size] = twins
    return [_lead(sizes, key[0], usual) for key, sizes in leads.items() if len(sizes) > 1]


def _lead(sizes: dict[int, _Twins], told: str, usual: Usual) -> Found:
    least, most = min(sizes), max(sizes)
    online, offline, effort = sizes[most]
    sides = [((offline_.id, 1), (online_.id, -1)) for online_, offline_, _ in (sizes[least], sizes[most])]
    where: dict[str, Any] = where_of(offline) | {"queries": f"{least} to {most}", "train.mode": "offline - online"}
    pair = Pair(sides[0], sides[1], offline.seed)
    return Found(where, pair, told, (usual.rank(online), usual.rank(offline)), effort)


def _twins(group: Sequence[Run], usual: Usual) -> list[_Twins]:
    """(online, offline, effort): for each stream and kind of effort the offline run to compare it with."""
    found = []
    for stream in _newest_of_each_schedule(run for run in group if run.facts["train.mode"] == "online"):
        offline = [run for run in group if run.facts["train.mode"] == "offline"]
        offline = [run for run in offline if run.facts["n_train"] == stream.facts["n_train"]]
        for effort in EFFORTS:
            fit = [run for run in offline if effort in efforts_of(stream, run)]
            if fit:
                found.append((stream, min(fit, key=usual.rank), effort))
    return found


def _newest_of_each_schedule(runs: Iterable[Run]) -> list[Run]:
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(schedule(run), run)
    return list(found.values())


def _schedules(online: Run, offline: Run, effort: str) -> str:
    """What the pairs of one place have in common. A matched run's schedule follows from the stream's."""
    return repr((schedule(online), schedule(offline) if effort == OWN else effort))
