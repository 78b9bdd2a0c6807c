"""What a method of training is called, wherever runs of several modes are shown together. No Streamlit, no torch."""

from __future__ import annotations

from engine import catalogue
from engine.catalogue import MODES
from engine.config.schema import TrainSpec
from engine.index.run_folder import loss_label

SUPERVISION = {name: card.title.lower() for name, card in catalogue.SUPERVISION.items()}


def mode_word(mode: str) -> str:
    """'on-policy' for `on_policy`; what is no mode stays as it is."""
    return MODES[mode].called if mode in MODES else mode


def method_name(loss: object, mode: object) -> str:
    """'forward_kl' offline, which is the usual case, and 'online forward_kl', 'on-policy forward_kl'."""
    word = mode_word(mode) if isinstance(mode, str) else ""
    name = str(loss) if isinstance(loss, str) else "unknown loss"
    return name if word in ("", "offline") else f"{word} {name}"


def method_of(train: TrainSpec) -> str:
    """The method of a recipe."""
    return method_name(loss_label(train.loss), train.mode)
