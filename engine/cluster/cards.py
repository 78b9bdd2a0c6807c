"""The cards that a run asks a cluster for."""

from __future__ import annotations

from engine.config.schema import Recipe
from engine.errors import DraftbenchError


def check_cards(recipe: Recipe) -> None:
    """Raises DraftbenchError for a recipe that computes on more cards than it asks for."""
    device, parts, gpus = recipe.target.device, recipe.target.tensor_parallel, recipe.resources.gpus
    if parts > 1 and 0 < gpus < parts:
        raise DraftbenchError(
            f"target.tensor_parallel is {parts} and resources.gpus is {gpus:g}",
            "each part of the target is on a card of its own, and a node lends a run only the cards that it asks for",
            f"--set resources.gpus={parts}",
        )
    if str(device).startswith("cuda") and not recipe.resources.gpus:
        raise DraftbenchError(
            f"target.device is {device} and resources.gpus is 0",
            "a node lends a run only the cards that it asks for",
            "--set resources.gpus=1",
        )
