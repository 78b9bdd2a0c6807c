"""Several runs from one recipe: the product of some values of some keys."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config.reading import apply_overrides, one_line, parse_recipe
from engine.config.schema import LOSS_PARAMETERS, Recipe
from engine.errors import DraftbenchError

_LONGEST_NAME = 64


def expand(recipe: Recipe, axes: Mapping[str, Sequence[Any]]) -> list[Recipe]:
    """A recipe for each combination of the axes' values, the last axis changing fastest.

    `axes` maps dotted keys such as `train.loss` to values. Each recipe is named after the values
    in which it differs from the others. Raises DraftbenchError naming the axis and the value that
    no recipe can have.

    A scenario says where the training prompts come from, so each has its own: the axis `prompts`
    has values such as `{"scenario": "synthetic", "train": "made.jsonl"}`.
    """
    from engine.distill.losses import check_terms  # needs torch, which the rest of this module does not

    distinct = {key: _distinct(key, values) for key, values in axes.items()}
    _check_scenarios(distinct)
    varied = [key for key, values in distinct.items() if len(values) > 1]
    recipes: list[Recipe] = []
    taken: set[str] = set()
    for values in itertools.product(*distinct.values()):
        chosen = dict(zip(distinct, values, strict=True))
        made = _made(recipe, chosen)
        check_terms(made.train.loss)
        name = _unique(_name(recipe.name, {key: chosen[key] for key in varied}), taken)
        recipes.append(made.model_copy(update={"name": name}))
    return recipes


def _distinct(key: str, values: Sequence[Any]) -> list[Any]:
    """The values in order, each once; an axis without any is refused."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    if not found:
        raise DraftbenchError(
            f"the sweep's axis {key} has no values", "no run could be made of it", "give it a value, or leave it out"
        )
    return found


def _check_scenarios(axes: Mapping[str, Sequence[Any]]) -> None:
    """Refuse scenarios that would be trained on the same prompts: they would differ in nothing but the label."""
    why = "the scenario says where the training prompts come from: the same prompts make the same draft"
    if len(axes.get("prompts.scenario", ())) > 1:
        raise DraftbenchError(
            "the sweep's scenarios have the same prompts", why, "name training prompts for each of them"
        )
    owners: dict[str, str] = {}
    for value in axes.get("prompts", ()):
        train, scenario = one_line(value["train"]), str(value["scenario"])
        if not value["train"]:
            raise DraftbenchError(f"the scenario {scenario} has no training prompts", why, "name a file for it")
        if train in owners:
            both = f"{owners[train]} and {scenario}"
            raise DraftbenchError(f"the scenarios {both} have the same training prompts", why, "name one file for each")
        owners[train] = scenario


def _made(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    try:
        return _with(recipe, chosen)
    except DraftbenchError as error:
        culprit = {key: value for key, value in chosen.items() if not _fits(recipe, key, value)} or chosen
        told = ", ".join(f"{key} = {one_line(value)}" for key, value in culprit.items())
        raise DraftbenchError(f"the sweep's {told} is not valid: {error.what}", error.why, error.fix) from None


def _fits(recipe: Recipe, key: str, value: Any) -> bool:
    try:
        _with(recipe, {key: value})
    except DraftbenchError:
        return False
    return True


def _with(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    settings = [f"{key}={one_line(value)}" for key, value in flat(chosen).items()]
    return parse_recipe(apply_overrides(recipe.model_dump(mode="json"), settings))


def flat(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """One value of each axis by recipe key: that of `prompts` sets two keys."""
    plain = {key: value for key, value in chosen.items() if key != "prompts"}
    return {**plain, **{f"prompts.{name}": value for name, value in chosen.get("prompts", {}).items()}}


def run_name(base: str, parts: Sequence[str], taken: set[str]) -> str:
    """A run's name of a beginning and some parts, unlike those `taken`, to which it is added; a long beginning is cut."""
    ending = "".join(f"-{_plain(part)}" for part in parts if _plain(part))
    return _unique(base[: max(1, _LONGEST_NAME - len(ending))] + ending[: _LONGEST_NAME - 1], taken)


def _name(base: str, values: Mapping[str, Any]) -> str:
    parts = [_slug(key, value) for key, value in values.items()]
    ending = "".join(f"-{part}" for part in parts if part)
    return base[: max(1, _LONGEST_NAME - len(ending))] + ending[: _LONGEST_NAME - 1]


def _slug(key: str, value: Any) -> str:
    """A value as part of a name: bare numbers say what they count."""
    if isinstance(value, bool | int | float) or value is None:
        return _plain(f"{key.rpartition('.')[2]}{value}")
    if isinstance(value, Mapping) and key == "prompts":
        return _plain(str(value["scenario"]))
    if isinstance(value, Mapping):
        first, *rest = value.values()
        own = LOSS_PARAMETERS.get(str(first))
        return _plain(f"{first}{value[own]}" if own in value else "-".join(str(part) for part in (first, *rest)))
    if isinstance(value, list | tuple):
        return "-".join(_slug(key, item) for item in value)
    return _plain(str(value))


def _plain(text: str) -> str:
    """Letters, digits, single points and hyphens: what a run's name may hold."""
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9.]+", "-", text)).strip("-.")


def _unique(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it if it was given out already."""
    number, candidate = 2, name
    while candidate in taken:
        ending = f"-{number}"
        candidate, number = name[: _LONGEST_NAME - len(ending)] + ending, number + 1
    taken.add(candidate)
    return candidate
