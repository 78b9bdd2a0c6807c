"""Reading a recipe: a file and its bases, `--set` over it, checked against the schema; and writing it down again."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from engine.config.schema import Recipe
from engine.config.section import STORED, Section, Values, mark_of, section_of
from engine.errors import DraftbenchError, boundary, did_you_mean
from engine.untrusted.yaml_text import parse_yaml, read_yaml


def parse_recipe(values: Mapping[str, Any], *, stored: bool = False) -> Recipe:
    """A checked recipe. Raises DraftbenchError naming each bad key and the nearest known one.

    `stored`: it is that of a run that there is already, which may name what has no use: it was made without.
    """
    return parse_section(Recipe, values, stored=stored)


if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ELSEWHERE = ("hub:", "asset:", "pack:")  # before a name that is no path
AnySection = TypeVar("AnySection", bound=Section)


def parse_section(section: type[AnySection], values: Mapping[str, Any], *, stored: bool = False) -> AnySection:
    """As `parse_recipe`, for a recipe of another kind: one that writes prompts or tunes a target."""
    schema = "`draftbench schema` prints every key with its meaning and default"
    why, fix = (
        "a run must be made from exactly what the recipe says",
        f"correct it; {schema}" if section is Recipe else "correct it",
    )
    with boundary("the recipe cannot be read", fix, why):
        try:
            return section.model_validate(values, context={STORED: stored})
        except ValidationError as error:
            lines = [_explain(item, section) for item in error.errors()]
            raise DraftbenchError("the recipe is not valid: " + "; ".join(lines), why, fix) from None


def load_recipe(path: Path, overrides: Sequence[str] = (), *, stored: bool = False) -> Recipe:
    """Read a YAML recipe (and the one its `base` key names, under it) and apply `key.sub=value` overrides."""
    return parse_recipe(apply_overrides(recipe_values(path), overrides), stored=stored)


def load_section(section: type[AnySection], path: Path, overrides: Sequence[str] = ()) -> AnySection:
    """As `load_recipe`, for a recipe of another kind."""
    return parse_section(section, apply_overrides(recipe_values(path, section), overrides, section))


def recipe_values(path: Path, section: type[Section] = Recipe) -> dict[str, Any]:
    """The unchecked values of a recipe file, laid over those of its base, whose paths count from the base's folder."""
    return _read_with_base(path, (), section)


def _read_with_base(path: Path, seen: tuple[Path, ...], section: type[Section]) -> dict[str, Any]:
    if path in seen:
        raise DraftbenchError(f"{path} is its own base", "bases may not form a circle", "remove one of the base keys")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise DraftbenchError(
            f"{path} is not a recipe", "a recipe is a mapping of sections", "see recipes/quickstart.yaml"
        )
    base = values.pop("base", None)
    own: dict[str, Any] = with_paths_beside(values, path.parent, section) if seen else values  # seen: it is a base
    if base is None:
        return own
    return _overlay(_read_with_base(path.parent / str(base), (*seen, path), section), own, section)


def with_paths_beside(values: Values, folder: Path, section: type[Section] = Recipe) -> dict[str, Any]:
    """A copy of `values` in which a relative path to a file or folder in `folder` is absolute."""

    def absolute(path: str, kind: str) -> str:
        place = os.path.join(folder, path)  # pathlib fails on a name that cannot be
        relative = not path.startswith((*ELSEWHERE, "~")) and not os.path.isabs(path)
        return os.path.realpath(place) if relative and os.path.exists(place) else path

    return map_paths(values, absolute, section)


def _overlay(below: Values, above: Values, section: type[Section]) -> dict[str, Any]:
    """`above` over `below`, mapping by mapping; anything else is replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        inner = section_of(section.model_fields.get(key)) or Section
        old = _spelled_out(merged.get(key), inner)
        merged[key] = _overlay(old, value, inner) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _spelled_out(value: Any, section: type[Section]) -> Any:
    """What a shorthand stands for, `target: asset:x` for {model: asset:x}, also as the only item of a list."""
    if isinstance(value, list) and len(value) == 1:
        return _spelled_out(value[0], section)
    return {section.shorthand: value} if isinstance(value, str) and section.shorthand else value


def apply_overrides(values: Values, overrides: Sequence[str], section: type[Section] = Recipe) -> dict[str, Any]:
    """`values` with each `section.key=value` set; the value is read as YAML."""
    return with_settings(values, parse_settings(overrides), section)


def with_settings(values: Values, settings: Values, section: type[Section] = Recipe) -> dict[str, Any]:
    """A copy of `values` with dotted keys set."""
    result: dict[str, Any] = copy.deepcopy(dict(values))
    for key, value in settings.items():
        put(result, key, value, section)
    return result


def put(values: dict[str, Any], key: str, value: Any, section: type[Section] = Recipe) -> None:
    """Set a dotted key in place, in a section that may be given by its shorthand. Raises DraftbenchError for a key of
    an item of a list that has several."""
    *parents, last = key.split(".")
    place = values
    for depth, parent in enumerate(parents, 1):
        section = section_of(section.model_fields.get(parent)) or Section
        child = _spelled_out(place.get(parent), section)
        if isinstance(child, list) and child:
            whole = ".".join(parents[:depth])
            raise DraftbenchError(
                f"{key} cannot be set: {whole} is a list of {len(child)} items",
                "it does not say which item is meant",
                f"give the whole list, as in --set {quote(f'{whole}={one_line(child)}')}",
            )
        place[parent] = place = child if isinstance(child, dict) else {}
    place[last] = value


def value_at(values: Values, key: str) -> Any:
    """The value at a dotted key; None if it, or a section around it, is missing."""
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def map_paths(values: Values, change: Callable[[str, str], str], section: type[Section] = Recipe) -> dict[str, Any]:
    """A copy of `values` with each path p as `change(p, kind)`, kind being 'file' or 'draft' as the schema marks it.

    Shorthands are kept: a text in place of a section, and one item in place of a list.
    """

    def mapped(value: Any, key: str, owner: type[Section]) -> Any:
        field = owner.model_fields.get(key)
        inner = section_of(field)
        if isinstance(value, list):
            return [mapped(item, key, owner) for item in value]
        if inner is not None and isinstance(value, Mapping):
            return map_paths(value, change, inner)
        if inner is not None and inner.shorthand and isinstance(value, str):
            return mapped(value, inner.shorthand, inner)
        kind = mark_of(field).path if field else None
        return change(value, kind) if kind and isinstance(value, str) else value

    return {key: mapped(value, key, section) for key, value in values.items()}


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`key=value` settings as key -> value, in order. A key set twice to different values is refused, and so is one
    that a later setting of the section around it would undo."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = (part.strip() if part != "=" else part for part in setting.partition("="))
        if not equals or not key:
            raise DraftbenchError(f"--set {setting!r} is not key=value", "", "for example --set train.epochs=2")
        fix = "quote text that holds brackets, braces or ': ', for example --set 'notes=\"[draft] a: b\"'"
        value = parse_yaml(text, f"--set {setting!r}", fix)
        undone = next((earlier for earlier in values if earlier == key or earlier.startswith(f"{key}.")), None)
        if undone is not None and (undone != key or values[key] != value):
            raise DraftbenchError(
                f"--set {undone}={one_line(values[undone])} is undone by --set {setting}",
                "one of them would be left out",
                "give the one that is meant",
            )
        values[key] = value
    return values


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load_recipe` gives the same recipe back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def one_line(value: Any) -> str:
    """A value as YAML in one line, as `key=value` settings take it."""
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return dumped.removesuffix("...\n").strip()


def section_at(location: Sequence[str | int], root: type[Section] = Recipe) -> type[Section] | None:
    """The schema class that holds the last element of a dotted location in `root`."""
    section: type[Section] | None = root
    for part in location[:-1]:
        if section is not None and isinstance(part, str):
            section = section_of(section.model_fields.get(part))
    return section


def _explain(item: ErrorDetails, root: type[Section]) -> str:
    """One of pydantic's findings in words, with the nearest known key for an unknown one."""
    location = list(item["loc"])
    dotted = ".".join(str(part) for part in _named_in(location, root)) or "recipe"
    if item["type"] == "extra_forbidden":
        section = section_at(location, root)
        known = did_you_mean(str(location[-1]), section.model_fields) if section else ""
        return f"unknown key {dotted!r} ({known})"
    if item["type"] == "missing":
        return f"{dotted!r} is missing"
    hidden = isinstance(item["input"], (dict, Section)) or {"base_url", "also_at", "key_env"} & set(location)  # a key?
    shown = "" if hidden else f" (got {_short(item['input'])})"
    return f"{dotted}: {item['msg'].removeprefix('Value error, ')}{shown}"


def _named_in(location: Sequence[str | int], root: type[Section]) -> Iterator[str | int]:
    """The keys of a location, without the kinds of value that pydantic puts after a key that takes one of several."""
    section: type[Section] | None = root
    names = True  # whether what follows is named by a key, of a section or of a mapping
    for part in location:
        if names or isinstance(part, int):
            yield part
        if section is not None and isinstance(part, str):
            field = section.model_fields.get(part)
            section = section_of(field)
            names = section is not None or field is None or "dict" in str(field.annotation)


def _short(value: Any) -> str:
    """A value for a message; an integer of thousands of digits cannot be written at all."""
    try:
        written = repr(value)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"
    return written if len(written) <= 200 else f"{written[:200]}..."


def schema_rows(section: type[Section] = Recipe, prefix: str = "") -> list[dict[str, Any]]:
    """Every key of the schema: dotted name, type, default, choices and meaning; for docs and the form.

    A section that a recipe may leave out has a row of its own before those of its keys: without it they have no effect.
    """
    rows: list[dict[str, Any]] = []
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            many = "[]" if "list" in str(field.annotation) else ""
            if not many and not field.is_required() and field.default is None:
                rows.append(_schema_row(prefix + name, field))
            rows += schema_rows(inner, f"{prefix}{name}{many}.")
        else:
            rows.append(_schema_row(prefix + name, field))
    return rows


def _schema_row(key: str, field: FieldInfo) -> dict[str, Any]:
    kind = str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", "")
    return {
        "key": key,
        "type": kind,
        "default": "required" if field.is_required() else field.get_default(call_default_factory=True),
        "choices": choices_of(field.annotation),
        "meaning": field.description or "",
    }


def choices_of(annotation: Any) -> list[str]:
    """The words that a key takes, if it takes no others; a key of several types has none."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in parts]
    return choices_of(parts[0]) if len(parts) == 1 and get_origin(annotation) in (Union, UnionType) else []
