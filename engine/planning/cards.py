"""The graphics cards of this machine, and whether a target fits one, all, or none of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.models.placement import CARD_SHARE
from engine.numbers import readable_bytes


@dataclass(frozen=True)
class Card:
    """A card that this process sees, with its memory in bytes."""

    number: int
    name: str
    free: int
    total: int


def cards() -> list[Card]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, all where it is not set; none without CUDA."""
    if not torch.cuda.is_available():
        return []
    return [
        Card(number, torch.cuda.get_device_name(number), *torch.cuda.mem_get_info(number))
        for number in range(torch.cuda.device_count())
    ]


def cards_in_words(seen: Sequence[Card], visible: str | None) -> str:
    """The cards by name with their free memory; `visible`: CUDA_VISIBLE_DEVICES."""
    named = [
        f"{card.number}: {card.name}, {readable_bytes(card.free)} of {readable_bytes(card.total)} free" for card in seen
    ]
    chosen = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    return f"{len(seen)} card{'' if len(seen) == 1 else 's'}{chosen}; {'; '.join(named)}"


def holds(seen: Sequence[Card]) -> str:
    """How large a target one card and all together hold, as weights of two bytes, in words."""
    room = [int(card.free * CARD_SHARE) for card in seen]
    one = f"one card holds the weights of a target of {max(room) / 2e9:.1f} billion parameters in bfloat16"
    return one if len(room) == 1 else f"{one}, all together {sum(room) / 2e9:.1f} (target.device_map: auto)"


def fits_one(weights: int, seen: Sequence[Card]) -> bool:
    """Whether one of the cards holds weights of so many bytes beside what a run needs."""
    return any(weights <= card.free * CARD_SHARE for card in seen)


def fit(weights: int, seen: Sequence[Card]) -> str:
    """Whether weights of so many bytes fit one card, all together or none, in a sentence with what follows."""
    room = [int(card.free * CARD_SHARE) for card in seen]
    size = f"the target's weights are {readable_bytes(weights)}"
    if fits_one(weights, seen):
        fitting = [card.number for card, free in zip(seen, room, strict=True) if weights <= free]
        return f"{size}, which fits one card ({', '.join(f'cuda:{number}' for number in fitting)})"
    if weights <= sum(room):
        return f"{size}, which fits no single card, but all {len(seen)} together: set target.device_map: auto"
    return (
        f"{size}, which all cards together do not hold ({readable_bytes(sum(room))}): with target.device_map: auto the "
        "rest is read from main memory or disk for every token; a quantised target may fit"
    )


def visible_devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")
