"""Display names of training methods: mode, supervision, and loss with mode. No Streamlit, no torch."""

from __future__ import annotations

from engine.config.schema import TrainSpec
from engine.index.run_folder import loss_label

MODES = {"offline": "offline", "online": "online", "on_policy": "on-policy"}
SUPERVISION = {"white_box": "white box", "black_box": "black box"}


def mode_word(mode: str) -> str:
    """'on-policy' for `on_policy`; an unknown mode is returned as it is."""
    return MODES.get(mode, mode)


def method_name(loss: object, mode: object) -> str:
    """'forward_kl' for offline, the usual mode, else 'online forward_kl' or 'on-policy forward_kl'."""
    name = loss if isinstance(loss, str) else "unknown loss"
    return f"{mode_word(mode)} {name}" if mode not in ("", "offline") and isinstance(mode, str) else name


def method_of(train: TrainSpec) -> str:
    """The method of a recipe."""
    return method_name(loss_label(train.loss), train.mode)
