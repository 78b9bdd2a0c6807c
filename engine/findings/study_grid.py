"""Runs as the grid of a study: what differs between them becomes its axes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.config.schema import PromptSource
from engine.findings.runs import Run

Settings = dict[str, Any]  # dotted recipe key -> value
_NOT_SETTINGS = ("name", "tags", "notes", "train.seed")  # of a run, not of what it is compared by


@dataclass(frozen=True)
class MissingStudy:
    """A study that would decide a claim. Upper-case words in `text` are for the reader to fill in."""

    name: str
    why: str
    text: str  # YAML for `draftbench study FILE`
    n_runs: int
    commands: tuple[str, ...] = ()  # single runs to begin with, where they are a few

    @property
    def file_name(self) -> str:
        return f"{self.name}.yaml"


def study_recipe(
    name: str, why: str, base: Run, axes: Settings, grids: list[Settings], n_runs: int, folder: Path, fixed: Settings
) -> MissingStudy:
    """The recipe of a study on the recipe of `base`, a run of `folder`; `fixed` is set in every cell."""
    values: Settings = {
        "name": name,
        "base": str(folder / base.id / "config.yaml"),
        "set": {"tags": []} | fixed,
        "axes": axes,
    }
    values |= {"grids": grids} if grids else {}
    lines = (
        f"{why}.",
        f"About {n_runs} run{'s' if n_runs != 1 else ''}.",
        "",
        f"  draftbench study {name}.yaml --plan",
        f"  draftbench study {name}.yaml",
        "",
    )
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    text = head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return MissingStudy(name, why, text, n_runs)


def grid_of(
    name: str, why: str, runs: Sequence[Run], seeds: list[int], folder: Path, match: Sequence[str] = ()
) -> MissingStudy:
    """Exactly these runs, but for their seeds: what differs between them becomes axes."""
    flat = {run.id: _flat(run.config) for run in runs}
    keys = {key for one in flat.values() for key in one}
    counts = {key: Counter(repr(one.get(key)) for one in flat.values()) for key in keys}
    varying = sorted(key for key, count in counts.items() if len(count) > 1)
    # The run that has the most in common with the others, so that little needs to be said of each.
    base = max(runs, key=lambda run: sum(counts[key][repr(flat[run.id].get(key))] for key in varying))
    axes: Settings = {}
    labels: dict[str, Settings] = {run.id: {} for run in runs}
    for axis in ("place", "training", "loss", "queries"):
        mine = [key for key in varying if _axis(key) == axis]
        if mine:
            settings = {run.id: {key: flat[run.id].get(key) for key in mine} for run in runs}
            axes[axis] = _values(axis, runs, settings, labels)
    distinct = list({repr(sorted(one.items())): one for one in labels.values()}.values())
    grids = _merged(distinct)
    for grid in grids:  # an axis of which a grid takes everything need not be named
        for axis in [axis for axis, value in grid.items() if len(value) == len(axes[axis])]:
            del grid[axis]
    usual = flat[base.id]
    axes = {axis: _plain(axis, _changes(values, usual)) for axis, values in axes.items()} | {"seed": seeds}
    for grid in grids:
        if "queries" in grid and isinstance(axes["queries"], list):
            grid["queries"] = [int(label) for label in grid["queries"]]
    n_runs = len(distinct) * len(seeds)
    if match and "training" in axes:
        online = sorted({labels[run.id]["training"] for run in runs if run.facts["train.mode"] == "online"})
        n_runs += len(seeds) * len(match) * sum(one["training"] in online for one in distinct)
        grids += [{"training": online, "match": list(match)}]
    return study_recipe(name, why, base, axes, [grid for grid in grids if grid], n_runs, folder, {})


def _axis(key: str) -> str:
    if key in ("train.loss", "prompts.train_prompts"):
        return "loss" if key == "train.loss" else "queries"
    return "training" if key.startswith("train.") else "place"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Settings:
    """Dotted key -> value; a list is one value. Names and notes of a run, and its seed, are left out."""
    flat: Settings = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix + key not in _NOT_SETTINGS:
            flat[prefix + key] = value
    return flat


def _values(axis: str, runs: Sequence[Run], settings: Mapping[str, Settings], labels: dict[str, Settings]) -> Settings:
    """Label -> settings of one axis, a label for each combination that occurs; notes each run's label."""
    known: dict[str, str] = {}
    values: Settings = {}
    for run in runs:
        one = settings[run.id]
        if repr(one) not in known:
            known[repr(one)] = label = _free(_label(axis, run), values)
            values[label] = one
        labels[run.id][axis] = known[repr(one)]
    return values


def _changes(values: Settings, usual: Settings) -> Settings:
    """The settings of each label that are not the base's; prompt sources as short as a recipe takes them."""
    return {
        label: {key: short_sources(value) for key, value in one.items() if repr(value) != repr(usual.get(key))}
        for label, one in values.items()
    }


def short_sources(value: Any) -> Any:
    """A list of prompt sources without what is usual in them."""
    if not (isinstance(value, list) and value and all(isinstance(one, dict) and "path" in one for one in value)):
        return value
    sources = [PromptSource(**one).model_dump(exclude_defaults=True) for one in value]
    return sources[0]["path"] if len(sources) == 1 and list(sources[0]) == ["path"] else sources


def _label(axis: str, run: Run) -> str:
    names = {
        "place": f"{run.facts['domain']}-{run.facts['scenario']}",
        "training": run.facts["train.mode"],
        "loss": str(run.facts["loss"]) if str(run.facts["loss"]).isidentifier() else "mixed",
        "queries": str(run.config.get("prompts", {}).get("train_prompts") or "all"),
    }
    return str(names[axis])


def _free(label: str, taken: Mapping[str, Any]) -> str:
    return next(name for name in (label, *(f"{label}-{n}" for n in range(2, 1000))) if name not in taken)


def _plain(axis: str, values: Settings) -> Any:
    """An axis of plain names or numbers as a list."""
    if axis == "loss" and "mixed" not in values and all("-" not in label for label in values):
        return list(values)
    if axis == "queries" and all(label.isdigit() for label in values):
        return [int(label) for label in values]
    return values


def _merged(cells: Sequence[Settings]) -> list[Settings]:
    """Few grids that hold exactly these cells: two that differ in one axis only become one."""
    grids = [{axis: [label] for axis, label in cell.items()} for cell in cells]
    merged = True
    while merged:
        merged = False
        for i, j in itertools.combinations(range(len(grids)), 2):
            differing = [axis for axis in grids[i] if sorted(grids[i][axis]) != sorted(grids[j][axis])]
            if len(differing) == 1:
                (axis,) = differing
                grids[i] = grids[i] | {axis: grids[i][axis] + grids[j][axis]}
                del grids[j]
                merged = True
                break
    return grids
