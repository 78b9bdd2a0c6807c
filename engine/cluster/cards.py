"""The cards that a run asks a cluster for."""

from __future__ import annotations

import math

from engine.config.schema import Recipe
from engine.errors import DraftbenchError


def check_cards(recipe: Recipe) -> None:
    """Raises DraftbenchError for a recipe that computes on more cards than it asks for."""
    parts, gpus = recipe.target.tensor_parallel, recipe.resources.gpus
    if parts > 1 and 0 < gpus < parts:
        raise DraftbenchError(
            f"target.tensor_parallel is {parts} and resources.gpus is {gpus:g}",
            "each part of the target is on a card of its own, and a node lends a run only the cards that it asks for",
            f"--set resources.gpus={parts}",
        )
    for key, device in (("target.device", recipe.target.device), ("draft.device", recipe.draft.device)):
        wanted = _cards_up_to(str(device))
        if wanted > math.ceil(gpus):
            raise DraftbenchError(
                f"{key} is {device} and resources.gpus is {gpus:g}",
                "a node lends a run only the cards that it asks for, and numbers these from 0",
                f"--set resources.gpus={wanted}",
            )


def _cards_up_to(device: str) -> int:
    """How many cards a machine must have for a device: 0 for a CPU, 1 for `cuda` and `cuda:0`, 2 for `cuda:1`."""
    kind, _, number = device.partition(":")
    return 0 if kind != "cuda" else int(number) + 1 if number.isdecimal() else 1
