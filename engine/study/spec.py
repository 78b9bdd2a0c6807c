"""The recipe of a study: what its cells have in common, its axes, and which products of them are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from engine.config.reading import parse_section, parse_settings, recipe_values, with_paths_beside
from engine.config.section import Section
from engine.errors import DraftbenchError, did_you_mean
from engine.paths import resolve_input
from engine.study.grid import Settings
from engine.untrusted.yaml_text import parse_yaml, read_yaml

# The recipe key that an axis of plain values sets; an axis named like a key, such as `train.learning_rate`, sets that.
PLAIN_AXES = {
    "domain": "prompts.domain",
    "scenario": "prompts.scenario",
    "loss": "train.loss",
    "mode": "train.mode",
    "queries": "prompts.train_prompts",
    "seed": "train.seed",
}

Match = Literal["tokens", "steps"]


def label_of(value: Any) -> str:
    """What a plain value of an axis is called: '200', 'forward_kl', 'jsd-0.1'."""
    if isinstance(value, Mapping):
        return "-".join(label_of(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return "-".join(label_of(inner) for inner in value)
    return "all" if value is None else str(value)


def _axis(name: str, given: Any) -> dict[str, Settings]:
    """An axis as label -> settings; the short form is a list of plain values."""
    if isinstance(given, Mapping):
        return {str(label): dict(settings or {}) for label, settings in given.items()}
    key = PLAIN_AXES.get(name, name if "." in name else None)
    if key is None:
        raise ValueError(
            f"axis {name!r} lists plain values, and which recipe key they set is not known "
            f"({did_you_mean(name, PLAIN_AXES)}): give it as label: {{key: value}}"
        )
    values = given if isinstance(given, list) else [given]
    labels: dict[str, dict[str, Any]] = {}
    for value in values:
        label = label_of(value)
        if labels.setdefault(label, {key: value}) != {key: value}:  # one of them would be left out
            raise ValueError(f"axis {name!r} has two values called {label!r}: give them as label: {{{key}: value}}")
    return labels


def _axes(given: Any) -> Any:
    return (
        {str(name): _axis(str(name), values) for name, values in given.items()} if isinstance(given, Mapping) else given
    )


class Grid(Section):
    """A product of axes. An axis that `where` does not name takes all its values."""

    where: dict[str, list[str]] = Field({}, description="axis -> its values in this product")
    match: list[Match] | None = Field(None, description="as the study's own match, for this product alone")


def _grid(given: Any) -> Any:
    """`{mode: offline, queries: [50, 200], match: [steps]}`: the axes stand beside `match`."""
    if not isinstance(given, Mapping) or "where" in given:
        return given
    where = {
        str(axis): [label_of(value) for value in (values if isinstance(values, list) else [values])]
        for axis, values in given.items()
        if axis != "match"
    }
    return {"where": where, "match": given.get("match")}


class StudySpec(Section):
    """A grid of runs that share captures."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$", description="begins the name of every cell")
    base: str | dict[str, Any] = Field(
        {}, description="recipe that every cell starts from, looked for beside the study's; or its values"
    )
    set: Settings = Field({}, description="dotted recipe keys over the base, for every cell")
    axes: Annotated[dict[str, dict[str, Settings]], BeforeValidator(_axes)] = Field(
        {},
        description="axis -> label -> dotted recipe keys; {axis} in a value is replaced by that axis' label. "
        "A list of plain values will do for domain, scenario, loss, mode, queries, seed and an axis named like a key",
    )
    grids: list[Annotated[Grid, BeforeValidator(_grid)]] = Field(
        [Grid()], min_length=1, description="products of axes, whose union is run; everything if empty"
    )
    match: list[Match] = Field(
        [],
        description="for every online or on-policy cell also an offline one of as many target tokens or optimiser "
        "steps",
    )
    folder: str | None = Field(None, description="where relative paths are looked for; the study recipe's own if empty")

    @model_validator(mode="after")
    def _grids_name_axes(self) -> StudySpec:
        for axis, labels in self.axes.items():
            if not labels:
                raise ValueError(f"axis {axis!r} has no values")
        for grid in self.grids:
            for axis, wanted in grid.where.items():
                if axis not in self.axes:
                    raise ValueError(f"a grid names the axis {axis!r} ({did_you_mean(axis, self.axes)})")
                for label in wanted:
                    if label not in self.axes[axis]:
                        raise ValueError(f"a grid names {axis} {label!r} ({did_you_mean(label, self.axes[axis])})")
        return self


def load_study(path: Path, settings: Sequence[str] = ()) -> StudySpec:
    """The study in a file, with its base read and its paths absolute.

    `settings`: `key=value` over the recipe of every cell, below the axes; `name=` names the study.
    Raises DraftbenchError if it is not valid.
    """
    return _with_settings(_study(read_yaml(path), str(path), path.parent.absolute()), settings)


def parse_study(text: str, named: str, beside: Path) -> StudySpec:
    """The study in a text, as `load_study`; `named` is the text's name in errors, `beside` where its files are."""
    return _study(parse_yaml(text, named), named, beside)


def _study(values: Any, named: str, beside: Path) -> StudySpec:
    spec = parse_section(StudySpec, _mapping(values, named))
    beside = Path(spec.folder) if spec.folder else beside
    return spec.model_copy(update={"folder": str(beside), "base": _base(spec.base, beside)})


def dump_study(spec: StudySpec) -> str:
    """The study as YAML; `load_study` gives the same study back."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _mapping(values: Any, named: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not {"axes", "name"} <= values.keys():
        raise DraftbenchError(
            f"{named} is not a study",
            "a study has a name and axes; `draftbench run` is for the recipe of a single run",
            "see recipes/studies/smoke.yaml",
        )
    return values


def _base(base: str | dict[str, Any], beside: Path) -> dict[str, Any]:
    if isinstance(base, dict):
        return base
    file = resolve_input(base, beside)
    return with_paths_beside(recipe_values(file), file.parent)


def _with_settings(spec: StudySpec, settings: Sequence[str]) -> StudySpec:
    """The study with `key=value` settings laid over what its cells have in common."""
    common, name = dict(spec.set), spec.name
    for key, value in parse_settings(settings).items():
        if key == "name":
            name = str(value)
        else:
            common[key] = value
    return parse_section(StudySpec, {**spec.model_dump(mode="json"), "set": common, "name": name})
