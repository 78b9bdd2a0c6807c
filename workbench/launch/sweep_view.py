"""The sweep on the Launch page: which keys take several values, and what each run of it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import streamlit as st

from engine.config.schema import Recipe
from engine.study.sweep import settings_of
from workbench.launch.form import field_at, shape_of
from workbench.shared import ui
from workbench.shared.method_names import method_of
from workbench.shared.pages import listed

AXES = ("losses", "scenarios", "modes", "seeds", "sizes")  # as the URL names them
_PROMPTS = "train-"  # and the prompts of each scenario
_MOST_SIZES, _DIGITS = 20, 9

Axes = Mapping[str, Sequence[Any]]  # values by recipe key; those of `prompts` set scenario and train


def choose(losses: Sequence[str], values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Draw the axes; returns those that have values. `values` is what the form holds."""
    with st.expander(
        "Sweep: several runs at once", icon=":material/grid_view:", expanded=any(listed(key) for key in AXES)
    ):
        st.caption("Each combination becomes a run of its own. Captures are made once and shared.")
        left, right = st.columns(2)
        axes: dict[str, list[Any]] = {
            "train.loss": left.multiselect("Losses", losses, key="losses", bind="query-params"),
            "train.mode": left.multiselect("Modes", _options("train.mode"), key="modes", bind="query-params"),
            "train.seed": [
                int(seed)
                for seed in right.multiselect(
                    "Seeds",
                    [str(seed) for seed in range(5)],
                    key="seeds",
                    bind="query-params",
                    help="At least three before a difference is called one.",
                )
            ],
            "prompts": _choose_scenarios(right, values["prompts"]),
            "prompts.train_prompts": _choose_sizes(left),
        }
    return {key: values for key, values in axes.items() if values}


def named_in_address() -> Iterator[str]:
    """Parameters of the present URL that fill in the sweep."""
    return (name for name in st.query_params if name in AXES or name.startswith(_PROMPTS))


def _choose_sizes(place: Any) -> list[int]:
    """Numbers of training prompts: the smaller sets are parts of the larger ones."""
    typed = place.text_input(
        "Training prompts, how many",
        key="sizes",
        bind="query-params",
        placeholder="for example 100, 200, 400",
        help="Each smaller set is part of the larger ones; all are measured on the same held-out prompts.",
    )
    numbers = re.findall(r"[0-9]+", typed or "")
    if len(numbers) > _MOST_SIZES or any(len(number) > _DIGITS for number in numbers):
        place.error(
            f"At most {_MOST_SIZES} numbers, of at most {_DIGITS} digits: none was taken.", icon=":material/error:"
        )
        return []
    return [int(number) for number in numbers if int(number)]


def _choose_scenarios(place: Any, prompts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The selected scenarios, each with training prompts of its own: a scenario says where these come from."""
    axis = []
    for scenario in place.multiselect("Scenarios", _options("prompts.scenario"), key="scenarios", bind="query-params"):
        own = prompts["train"][0]["path"] if scenario == prompts["scenario"] and prompts["train"] else ""
        path = st.text_input(
            f"Training prompts, {scenario}",
            value=own,
            key=f"{_PROMPTS}{scenario}",
            bind="query-params",
            placeholder="file, folder or hub:NAME",
            help=f"The {scenario} queries. Each scenario needs its own.",
        )
        axis.append({"scenario": scenario, "train": path.strip()})
    return axis


def _options(dotted: str) -> tuple[str, ...]:
    return shape_of(field_at(dotted)).options


def changed(recipe: Recipe, values: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
    """The form's values with what the sweep changed in one of its recipes; paths as they were typed."""
    dumped = recipe.model_dump(mode="json")
    typed = {str(value["scenario"]): value["train"] for value in axes.get("prompts", ())}
    variant: dict[str, Any] = {**values, "name": dumped["name"]}
    for axis, settings in axes.items():
        for key in settings_of(axis, settings[0]):
            section, name = key.split(".")
            variant[section] = {**variant[section], name: dumped[section][name]}
    if typed:
        variant["prompts"]["train"] = [{"path": typed[recipe.prompts.scenario]}]
    return variant


def by_prompts(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """The recipes in groups that share their training prompts: captures, disk and checks depend on these alone."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(str((recipe.prompts.train, recipe.prompts.train_prompts)), []).append(recipe)
    return list(groups.values())


def estimate_note(recipes: Sequence[Recipe]) -> str:
    """What an estimate for the first loss, or the first mode, leaves out; empty if there is one only."""
    modes = {recipe.train.mode for recipe in recipes}
    losses = list(dict.fromkeys(" + ".join(term.name for term in recipe.train.loss) for recipe in recipes))
    if len(modes) > 1:
        first = ui.text(method_of(recipes[0].train))
        return f"Estimated with {first}; other modes may take much less or more."
    return f"Estimated with the loss {ui.text(losses[0])}; others take a little more or less." if losses[1:] else ""
