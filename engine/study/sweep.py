"""Several runs from one recipe: a study whose axes have no names, each a recipe key and some of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.catalogue import LOSSES, check_losses
from engine.config.reading import one_line, parse_recipe, with_settings
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.study.grid import Settings, combinations, combined, plain, run_name, unique

PROMPTS = "prompts"  # the axis that sets where prompts come from and which they are


def expand(recipe: Recipe, axes: Mapping[str, Sequence[Any]]) -> list[Recipe]:
    """A recipe for each combination of the axes' values, the last axis changing fastest.

    `axes` maps dotted keys such as `train.loss` to values. Each recipe is named after the values
    in which it differs from the others. Raises DraftbenchError naming the axis and the value that
    no recipe can have.

    A scenario says where the training prompts come from, so each has its own: the axis `prompts`
    has values such as `{"scenario": "synthetic", "train": "written.jsonl"}`.
    """
    _check_scenarios(axes)
    labelled = {key: _labelled(key, values) for key, values in axes.items()}
    varied = [key for key, labels in labelled.items() if len(labels) > 1]
    base = recipe.model_dump(mode="json")
    recipes: list[Recipe] = []
    taken: set[str] = set()
    for labels in combinations(labelled):
        settings = {key: labelled[key][label] for key, label in labels.items()}
        try:
            variant = _checked(combined(base, labelled, labels, common={}))
        except DraftbenchError as error:
            culprits = [one for one in settings.values() if not _is_valid(base, one)] or list(settings.values())
            listed = ", ".join(f"{key} = {one_line(value)}" for one in culprits for key, value in one.items())
            raise DraftbenchError(f"the sweep's {listed} is not valid: {error.what}", error.why, error.fix) from None
        name = run_name(recipe.name, [labels[key] for key in varied], taken)
        recipes.append(variant.model_copy(update={"name": name}))
    return recipes


def settings_of(key: str, value: Any) -> Settings:
    """What a value of an axis sets, by recipe key: that of `prompts` sets two keys."""
    return {f"{PROMPTS}.{name}": inner for name, inner in value.items()} if key == PROMPTS else {key: value}


def _labelled(key: str, values: Sequence[Any]) -> dict[str, Settings]:
    """The axis as label -> settings, each value once; an axis without any is refused."""
    labels: dict[str, Settings] = {}
    taken: set[str] = set()
    for value in values:
        if settings_of(key, value) not in labels.values():
            labels[unique(_label(key, value), taken)] = settings_of(key, value)
    if not labels:
        raise DraftbenchError(
            f"the sweep's axis {key} has no values", "no run could be made of it", "give it a value, or leave it out"
        )
    return labels


def _label(key: str, value: Any) -> str:
    """A value as part of a name: bare numbers say what they count."""
    if isinstance(value, bool | int | float) or value is None:
        return plain(f"{key.rpartition('.')[2]}{value}")
    if isinstance(value, Mapping) and key == PROMPTS:
        return plain(str(value["scenario"]))
    if isinstance(value, Mapping):
        first, *rest = value.values()
        card = LOSSES.get(str(first))
        own = None if card is None else card.parameter
        return plain(f"{first}{value[own]}" if own in value else "-".join(str(part) for part in (first, *rest)))
    if isinstance(value, list | tuple):
        return "-".join(_label(key, item) for item in value)
    return plain(str(value))


def _check_scenarios(axes: Mapping[str, Sequence[Any]]) -> None:
    """Refuse scenarios that would be trained on the same prompts: they would differ in nothing but the label."""
    why = "the scenario says where the training prompts come from: the same prompts make the same draft"
    if len(set(axes.get("prompts.scenario", ()))) > 1:
        raise DraftbenchError(
            "the sweep's scenarios have the same prompts", why, "name training prompts for each of them"
        )
    owners: dict[str, str] = {}
    for value in axes.get(PROMPTS, ()):
        train, scenario = one_line(value["train"]), str(value["scenario"])
        if not value["train"]:
            raise DraftbenchError(f"the scenario {scenario} has no training prompts", why, "name a file for it")
        if owners.setdefault(train, scenario) != scenario:
            both = f"{owners[train]} and {scenario}"
            raise DraftbenchError(f"the scenarios {both} have the same training prompts", why, "name one file for each")


def _checked(values: Mapping[str, Any]) -> Recipe:
    recipe = parse_recipe(values)
    check_losses(term.name for term in recipe.train.loss)
    return recipe


def _is_valid(base: Mapping[str, Any], settings: Settings) -> bool:
    try:
        _checked(with_settings(base, settings))
    except DraftbenchError:
        return False
    return True
