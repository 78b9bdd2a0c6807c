"""The cards that a run asks a cluster for."""

from __future__ import annotations

from engine.config.schema import Recipe
from engine.errors import DraftbenchError


def check_cards(recipe: Recipe) -> None:
    """Raises DraftbenchError for a recipe that computes on a card and asks for none."""
    device = recipe.target.device
    if str(device).startswith("cuda") and not recipe.resources.gpus:
        raise DraftbenchError(
            f"target.device is {device} and resources.gpus is 0",
            "a node lends a run only the cards that it asks for",
            "--set resources.gpus=1",
        )
