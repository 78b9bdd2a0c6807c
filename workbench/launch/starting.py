"""Where a new run begins: a recipe file or an earlier run; and the command line that gives the same run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.reading import apply_overrides, load_recipe, one_line, parse_recipe, section_at
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, did_you_mean
from engine.jobs.executors import LOCAL
from engine.paths import PROJECT_ROOT, Home, resolve_input
from engine.runs.folder import RunFolder
from engine.runs.recipes import with_absolute_paths
from engine.study.sweep import expand

RECIPES = PROJECT_ROOT / "recipes"
_FIRST = "quickstart"
_FOLDERS = (".", "domains", "drafts")  # recipes/targets and recipes/magpie make no runs
# Choices of one key that can make another's impossible: a setting that resolves it, and what it means.
_WAYS_OUT = (
    ("train.online.stream=replay", "Replay captured answers as the stream"),
    ("draft.vocabulary=null", "Do not choose a new vocabulary"),
)
_COMMON = "common"  # the base of a folder's recipes, which is no recipe by itself


@dataclass(frozen=True)
class Start:
    """A recipe to begin with: how the command line names it, what it says of itself, and its values."""

    name: str
    argument: str  # for `draftbench run`
    about: str
    folder: Path  # that relative paths in it are looked for in
    values: dict[str, Any]


def recipe_names() -> list[str]:
    """Recipes of runs that come with this version, the first to try first, then those of the domains."""
    paths = [path for folder in _FOLDERS for path in sorted((RECIPES / folder).glob("*.yaml")) if path.stem != _COMMON]
    names = [path.relative_to(RECIPES).with_suffix("").as_posix() for path in paths]
    return sorted(names, key=lambda name: name != _FIRST)


def from_recipe(name: str) -> Start:
    """A recipe of `recipes/` by its name."""
    if name not in recipe_names():
        raise DraftbenchError(f"no recipe {name!r}", f"it is not in {RECIPES}", did_you_mean(name, recipe_names()))
    path = RECIPES / f"{name}.yaml"
    return Start(name, f"recipes/{name}.yaml", about(path), path.parent, load_recipe(path).model_dump(mode="json"))


def from_run(home: Home, run_id: str) -> Start:
    """The recipe of an earlier run."""
    run = RunFolder.open(home, run_id)
    path = run.path / "config.yaml"
    return Start(run.id, str(path), "", run.path, run.recipe().model_dump(mode="json"))


def about(path: Path) -> str:
    """The comment at the head of a recipe, without the command that it shows."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").rstrip())
    return " ".join(line.strip() for line in lines if line.strip() and not line.startswith("  "))


def title(path: Path) -> str:
    """A recipe's name for people: the first line of its head, up to the colon."""
    return about(path).partition(":")[0]


def recipe_titles() -> dict[str, str]:
    """The names for people of the recipes on offer, by their names."""
    return {name: title(RECIPES / f"{name}.yaml") for name in recipe_names()}


def checked(home: Home, start: Start, values: Mapping[str, Any]) -> Recipe:
    """The recipe that the values make, independent of where it is read. Raises DraftbenchError naming bad keys."""
    return with_absolute_paths(parse_recipe(values), start.folder, home)


def ways_out(
    start: Start, values: Mapping[str, Any], axes: Mapping[str, Sequence[Any]] | None = None
) -> list[tuple[str, str]]:
    """Settings that would each make a refused recipe or sweep a good one, with words for a button."""
    if _is_good(start, values, axes or {}):
        return []  # refused for something else
    return [way for way in _WAYS_OUT if _is_good(start, apply_overrides(values, [way[0]]), axes or {})]


def _is_good(start: Start, values: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> bool:
    try:
        swept(start, parse_recipe(values), axes)
    except DraftbenchError:
        return False
    return True


def swept(start: Start, recipe: Recipe, axes: Mapping[str, Sequence[Any]]) -> list[Recipe]:
    """The recipes of a sweep, or the recipe itself without axes. The axes' prompts are files as the recipe's are."""
    if not axes:
        return [recipe]
    prompts = [{**value, "train": _file(value["train"], start.folder)} for value in axes.get("prompts", ())]
    return expand(recipe, {**axes, "prompts": prompts} if prompts else axes)


def _file(name: str, beside: Path) -> str:
    return name if not name or name.startswith(("hub:", "pack:")) else str(resolve_input(name, beside))


def overrides(before: Mapping[str, Any], after: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[str]:
    """`key.sub=value` for everything in which `after` differs, as `--set` takes it."""
    settings: list[str] = []
    for name, value in after.items():
        old, place = before.get(name), (*prefix, name)
        if isinstance(value, Mapping) and old is None:  # a section that the start leaves out
            settings += overrides(_defaults([*place, 0]), value, place) or [f"{'.'.join(place)}={{}}"]
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            settings += overrides(old, value, place)
        elif value != old:
            settings.append(f"{'.'.join(place)}={one_line(_compact(place, value))}")
    return settings


def _defaults(location: Sequence[str | int]) -> dict[str, Any]:
    """The defaults of the section that holds a key; required keys have none."""
    section = section_at(location)
    assert section is not None
    return {name: field.default for name, field in section.model_fields.items() if not field.is_required()}


def command(argument: str, settings: Sequence[str], place: str | None = None) -> str:
    """The command line that queues the same run at the same place, quoted for a shell."""
    on = "" if place in (None, LOCAL) else f" --on {shlex.quote(str(place))}"
    begin = f"draftbench run {shlex.quote(argument)} --queue{on}"
    return " \\\n  ".join([begin, *(f"--set {shlex.quote(setting)}" for setting in settings)])


def _compact(place: tuple[str, ...], value: Any) -> Any:
    """A list of sections as a person would write it: without defaults, and a lone name instead of a mapping."""
    if not (isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)):
        return value
    section = section_at([*place, 0, "name"])
    assert section is not None
    first = next(iter(section.model_fields))
    items = []
    for item in value:
        kept = {key: inner for key, inner in item.items() if key == first or inner != section.model_fields[key].default}
        items.append(kept[first] if list(kept) == [first] else kept)
    return items[0] if len(items) == 1 else items
