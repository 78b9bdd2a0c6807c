"""Which runs share captures, so that a cluster makes each once before the runs that need it, which then hold no card
while they wait. Decided from the recipes alone: no prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config.schema import Recipe


@dataclass(frozen=True)
class CaptureGroup:
    """Runs, by their place in the list, that need the same captures.

    after: the group whose captures are made before, because this one can copy answers from them; None for the first.
    alone: no other run needs any of these captures, so the run can make them itself.
    """

    members: tuple[int, ...]
    after: int | None
    alone: bool


def capture_groups(recipes: Sequence[Recipe]) -> list[CaptureGroup]:
    """The groups of runs that need the same captures, in the order of their first run.

    Groups of one target and one set of held-out prompts share the answers to those, and larger sets of training prompts
    hold the answers to smaller ones, so such groups are made one after the other.
    """
    members: dict[str, list[int]] = {}
    for place, recipe in enumerate(recipes):
        members.setdefault(_same_captures(recipe), []).append(place)
    chains: dict[str, list[int]] = {}
    for group, places in enumerate(members.values()):
        chains.setdefault(_related(recipes[places[0]]), []).append(group)
    before = {group: chain[i - 1] for chain in chains.values() for i, group in enumerate(chain) if i}
    lonely = {chain[0] for chain in chains.values() if len(chain) == 1}
    return [
        CaptureGroup(tuple(places), before.get(group), group in lonely and len(places) == 1)
        for group, places in enumerate(members.values())
    ]


def _same_captures(recipe: Recipe) -> str:
    """What decides every capture of a run; two recipes that agree in it need the same ones."""
    train = recipe.train
    parts = (recipe.target, recipe.prompts, recipe.capture, recipe.measure, train.eval_prompts, train.needs_capture)
    return repr(parts)


def _related(recipe: Recipe) -> str:
    return repr((recipe.target, recipe.prompts.heldout))
