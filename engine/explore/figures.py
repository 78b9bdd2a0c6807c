"""Every setting and figure of a run by the column of the wide table (`engine.index.expressions.wide_table`).

A figure knows what it is called, which direction of it is better, and on what it depends besides the draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from engine.measure.compare import ON_TARGET_TEXT
from engine.measure.definitions import RATES, Better

Kind = Literal["rate", "sampled rate", "speed", "cost", "setting"]
_RATE = re.compile(rf"({'|'.join(RATES)})_(\d+(?:_\d+)?)")


@dataclass(frozen=True)
class Figure:
    """One column: `better` is None where no direction is, as of a setting."""

    name: str
    title: str
    kind: Kind
    better: Better | None = None


_KNOWN = {
    figure.name: figure
    for figure in (
        Figure("speedup", "Speed-up over plain decoding", "speed", "higher"),
        Figure("speedup_transformers", "Speed-up over Transformers' generate", "speed", "higher"),
        Figure("cost_ratio", "c: a draft step over a target step", "speed", "lower"),
        Figure("train_s", "Seconds of training", "cost", "lower"),
        Figure("tokens_seen", "Target tokens trained on", "cost", "lower"),
        Figure("steps_done", "Optimiser steps", "cost", "lower"),
        Figure("n_train", "Training prompts", "cost", "lower"),
        Figure("draft_parameters", "Parameters of the draft", "cost", "lower"),
        Figure("domain", "Domain", "setting"),
        Figure("scenario", "Scenario", "setting"),
        Figure("loss", "Loss", "setting"),
        Figure("mode", "Mode of training", "setting"),
        Figure("supervision", "Supervision", "setting"),
        Figure("target", "Target", "setting"),
        Figure("draft_init", "Beginning of the draft", "setting"),
        Figure("seed", "Seed of training", "setting"),
        Figure("num_draft_tokens", "gamma of the measurement", "setting"),
        Figure("dtype", "Precision", "setting"),
        Figure("device", "Device", "setting"),
        Figure("processor", "Processor", "setting"),
        Figure("threads", "Threads", "setting"),
        Figure("quantize", "Rounding of the target's weights", "setting"),
        Figure("acceptance_rule", "Acceptance rule", "setting"),
        Figure("n_prompts", "Held-out prompts", "setting"),
        Figure("heldout_hash", "Hash of the held-out prompts", "setting"),
        Figure("created_at", "Time of creation", "setting"),
    )
}
_OTHERS = {  # columns that are not set against each other
    "exact_low": "Exact acceptance, lower bound",
    "exact_high": "Exact acceptance, upper bound",
    "speedup_low": "Speed-up, lower bound",
    "speedup_high": "Speed-up, upper bound",
    "initial": "Exact acceptance before training",
    "n_tokens": "Measured tokens",
    "watched": "Prompts watched while training",
    "speedup_prompts": "Prompts of the timing",
}
_SECTIONS = {"train": "training", "measure": "measurement", "prompts": "prompts", "resources": "machine"}
_SAME = {  # settings of the recipe that have a column of their own
    "train.seed": "seed",
    "train.loss": "loss",
    "train.mode": "mode",
    "draft.init": "draft_init",
    "prompts.domain": "domain",
    "prompts.scenario": "scenario",
    "measure.num_draft_tokens": "num_draft_tokens",
}


def figures_of(table: pd.DataFrame) -> dict[str, Figure]:
    """The figures and settings of which some run has a value: rates first, then speed and cost, then settings."""
    known = [figure for name in table.columns if (figure := _figure(str(name))) and table[name].notna().any()]
    order: list[Kind] = ["rate", "sampled rate", "speed", "cost", "setting"]
    known.sort(key=lambda figure: order.index(figure.kind))
    return {figure.name: figure for figure in known}


def _figure(name: str) -> Figure | None:
    if name in _KNOWN:
        return _KNOWN[name]
    if match := _RATE.fullmatch(name):
        rate = RATES[match[1]]
        title = f"{rate.title}, T = {match[2].replace('_', '.')}"
        return Figure(name, title, "rate" if match[1] in ON_TARGET_TEXT else "sampled rate", rate.better)
    if "." in name and name not in _SAME:
        return Figure(name, setting_title(name), "setting")
    return None


def rate_of(name: str) -> tuple[str, float] | None:
    """('tau', 0.7) of the column `tau_0_7`; None for a column that is no rate."""
    match = _RATE.fullmatch(name)
    return (match[1], float(match[2].replace("_", "."))) if match else None


def title_of(name: str) -> str:
    """What any column of the wide table is called, also one that is no figure: 'Measured tokens' for `n_tokens`."""
    figure = _figure(name)
    if figure:
        return figure.title
    return setting_title(name) if "." in name else _OTHERS.get(name, f"{name[:1].upper()}{name[1:]}".replace("_", " "))


def setting_title(name: str) -> str:
    """A recipe's key for people: 'train.online.update_interval' as 'Update interval (training, online)'."""
    *sections, key = name.replace("heldout", "held-out").split(".")
    words = key.replace("_", " ")
    where = ", ".join(_SECTIONS.get(section, section.replace("_", " ")) for section in sections)
    return f"{words[:1].upper()}{words[1:]} ({where})"


def varied(table: pd.DataFrame, figures: Iterable[Figure]) -> list[Figure]:
    """Those of the figures in which the runs differ; a missing value counts as one."""
    return [figure for figure in figures if table[figure.name].nunique(dropna=False) > 1]


def chosen_by_user(figure: Figure) -> bool:
    """Whether it is something that a recipe decides about the draft, and so may explain how good it became.

    How it was measured is not, nor are lists of files, which name the data a second time, nor the supervision, which
    the loss decides.
    """
    if figure.kind == "cost":
        return figure.name == "n_train"
    own = ("scenario", "loss", "mode", "draft_init", "seed", "domain", "target")
    files = (
        "prompts.train",
        "prompts.train_prompts",
        "prompts.heldout",
        "train.checkpoint_every",
        "train.eval_every",
        "train.eval_prompts",
    )
    sections = ("train.", "draft.", "capture.", "prompts.")
    return figure.kind == "setting" and (
        figure.name in own or (figure.name.startswith(sections) and figure.name not in files)
    )
