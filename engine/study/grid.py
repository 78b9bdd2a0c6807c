"""The product of axes: which labels go together, the recipe of each combination, and names that tell them apart.

A study names its axes and their values; the axes of a sweep are recipe keys, and its labels come from the values.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.config.reading import with_settings

Settings = dict[str, Any]  # dotted recipe key -> value
Axes = Mapping[str, Mapping[str, Settings]]  # axis -> label -> settings

_LONGEST_NAME = 64


def combinations(axes: Axes, where: Mapping[str, Sequence[str]] | None = None) -> Iterator[dict[str, str]]:
    """A label for each axis, the last axis changing fastest. An axis that is not in `where` takes all its labels."""
    labels = {axis: (where or {}).get(axis, list(values)) for axis, values in axes.items()}
    for combination in itertools.product(*labels.values()):
        yield dict(zip(labels, combination, strict=True))


def combined(base: Mapping[str, Any], axes: Axes, labels: Mapping[str, str], *, common: Settings) -> dict[str, Any]:
    """The base recipe's values with the common settings and each label's; {axis} in a text is the axis' label."""
    settings = dict(common)
    for axis, label in labels.items():
        for key, value in axes[axis][label].items():
            settings.pop(key, None)  # a section set later is laid over what was set inside it
            settings[key] = value
    return with_settings(base, {key: _filled(value, labels) for key, value in settings.items()})


def _filled(value: Any, labels: Mapping[str, str]) -> Any:
    """The value with each {axis} in its texts replaced by the axis' label."""
    if isinstance(value, str):
        for axis, label in labels.items():
            value = value.replace(f"{{{axis}}}", label)
        return value
    if isinstance(value, Mapping):
        return {key: _filled(inner, labels) for key, inner in value.items()}
    return [_filled(inner, labels) for inner in value] if isinstance(value, list) else copy.deepcopy(value)


def run_name(base: str, parts: Sequence[str], taken: set[str]) -> str:
    """The name of a run: a beginning, cut if it is long, and parts. It is unlike those `taken` and is added to them."""
    ending = "".join(f"-{plain(part)}" for part in parts if plain(part))
    return unique(base[: max(1, _LONGEST_NAME - len(ending))] + ending[: _LONGEST_NAME - 1], taken)


def plain(text: str) -> str:
    """Letters, digits, single points and hyphens: what a run's name may hold."""
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9.]+", "-", text)).strip("-.")


def unique(name: str, taken: set[str]) -> str:
    """The name, with a number after it if it is taken already; adds it to those taken."""
    number, candidate = 2, name
    while candidate in taken:
        ending = f"-{number}"
        candidate, number = name[: _LONGEST_NAME - len(ending)] + ending, number + 1
    taken.add(candidate)
    return candidate
