"""Display names of training methods: mode, supervision, and loss with mode. No Streamlit, no torch."""

from __future__ import annotations

from engine import catalogue
from engine.catalogue import MODES
from engine.config.schema import TrainSpec
from engine.index.contents import MEASURED_ONLY, loss_label

SUPERVISION = {name: card.title.lower() for name, card in catalogue.SUPERVISION.items()}


def mode_word(mode: str) -> str:
    """'on-policy' for `on_policy`; an unknown mode is returned as it is."""
    if mode == MEASURED_ONLY:
        return "measured only"
    return MODES[mode].called if mode in MODES else mode


def method_name(loss: object, mode: object) -> str:
    """'forward_kl' for offline, the usual mode, else 'online forward_kl' or 'on-policy forward_kl'; 'measured only'."""
    if mode == MEASURED_ONLY:
        return "measured only"
    name = loss if isinstance(loss, str) else "unknown loss"
    return f"{mode_word(mode)} {name}" if isinstance(mode, str) and mode not in ("", "offline") else name


def method_of(train: TrainSpec) -> str:
    """The method of a recipe."""
    return method_name(loss_label(train.loss), train.mode)
