"""Which runs share captures, so that a cluster makes each once before the runs that need it, which then hold no card
while they wait. Decided from the recipes alone: no prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.cluster.capture_order import capture_keys
from engine.config.schema import Recipe


@dataclass(frozen=True)
class CaptureGroup:
    """Runs, by their place in the list, that need the same captures.

    after: the groups whose captures are made before, because this one has some of them too, or can copy answers.
    alone: no other run needs any of these captures, so the run can make them itself. captures: their keys.
    """

    members: tuple[int, ...]
    after: tuple[int, ...]
    alone: bool
    captures: frozenset[str]


def capture_groups(recipes: Sequence[Recipe]) -> list[CaptureGroup]:
    """The groups of runs that need the same captures, in the order of their first run.

    Groups of one target and one set of held-out prompts share the answers to those, and larger sets of training prompts
    hold the answers to smaller ones, so such groups are made one after the other.
    """
    keys = [capture_keys(recipe) for recipe in recipes]
    members: dict[frozenset[str], list[int]] = {}
    for place, one in enumerate(keys):
        members.setdefault(one.captures, []).append(place)
    groups: list[CaptureGroup] = []
    latest: dict[str, int] = {}  # what groups can have in common -> the last one that has it
    shared: set[int] = set()
    for number, places in enumerate(members.values()):
        common = (keys[places[0]].heldout, keys[places[0]].source)
        before = sorted({latest[part] for part in common if part in latest})
        shared |= {*before, *([number] if before or len(places) > 1 else [])}
        groups.append(CaptureGroup(tuple(places), tuple(before), False, keys[places[0]].captures))
        latest |= dict.fromkeys(common, number)
    return [replace(group, alone=number not in shared) for number, group in enumerate(groups)]
