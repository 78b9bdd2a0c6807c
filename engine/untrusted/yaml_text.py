"""YAML that strangers wrote: recipes, studies and the values of `--set`.

PyYAML's safe loader makes no objects of Python, but it keeps the last of two equal keys, expands aliases
without a limit and hands the same list to every alias, so that a change at one place is one at all of them.
Here a key that comes twice is refused with both lines, size and depth are bounded, and every alias is a copy.
Dates stay text: no setting is a date, and 2025-13-45 is none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from engine.errors import DraftbenchError, boundary
from engine.untrusted.regular_files import printable, read_text

_MOST_BYTES = 512 * 1024
_MOST_VALUES = 100_000  # once all aliases are copied
_MOST_LEVELS = 50
_SHOWN = 600
_TAG = "tag:yaml.org,2002:"
# Numbers of YAML 1.1 that most people, and YAML 1.2, read as others: 010 is eight there, and 1:30 is ninety.
_TWO_READINGS = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9.]+)+)")


class _Loader(yaml.SafeLoader):
    """Without dates, and with a limit on the depth, which PyYAML goes down by recursion."""

    levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.levels > _MOST_LEVELS:
            line = parent.start_mark.line + 1 if parent is not None else 1
            raise _Refused(f"it is nested deeper than {_MOST_LEVELS} levels at line {line}")
        self.levels += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Refused(Exception):
    """What is valid YAML and no recipe; the message says why."""


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises DraftbenchError naming the file, whatever is in it."""
    return parse_yaml(read_text(path, _MOST_BYTES), printable(path))


def parse_yaml(text: str, named: str, fix: str = "correct the file at the place named") -> Any:
    """The value in `text`, which `named` says the origin of. Raises DraftbenchError, whatever the text."""
    what = f"{named} is not valid YAML"
    with boundary(what, fix):
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                return None
            _check(loader, node)
            return _copied(loader.construct_document(node))
        except yaml.YAMLError as error:
            raise DraftbenchError(f"{what}: {printable(error)[:_SHOWN]}", "", fix) from None
        except _Refused as error:
            raise DraftbenchError(
                f"{named}: {error}", "a run must be made from exactly what the recipe says", fix
            ) from None


def _check(loader: _Loader, node: yaml.Node) -> None:
    """Refuses a key that comes twice, and aliases that multiply what is written or hold themselves."""
    sizes: dict[int, int] = {}

    def size(part: yaml.Node) -> int:
        known = sizes.get(id(part))
        if known == 0:
            raise _Refused(f"the value at line {part.start_mark.line + 1} holds itself")
        if known is None:
            sizes[id(part)] = 0
            inner: list[yaml.Node] = []
            if isinstance(part, yaml.MappingNode):
                _refuse_twice(loader, part)
                inner = [child for pair in part.value for child in pair]
            elif isinstance(part, yaml.SequenceNode):
                inner = part.value
            elif part.tag in (_TAG + "int", _TAG + "float") and _TWO_READINGS.fullmatch(part.value):
                raise _Refused(
                    f"{part.value} at line {part.start_mark.line + 1} is another number to another reader of YAML; "
                    "write a plain number, or text in quotes"
                )
            known = sizes[id(part)] = 1 + sum(size(child) for child in inner)
            if known > _MOST_VALUES:
                raise _Refused(f"it holds more than {_MOST_VALUES:,} values once its aliases are written out")
        return known

    size(node)


def _refuse_twice(loader: _Loader, mapping: yaml.MappingNode) -> None:
    lines: dict[Any, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(f"the key at line {key.start_mark.line + 1} is no plain word")
        # `<<` brings in another mapping, whose keys those beside it override on purpose.
        name = key.value if key.tag == _TAG + "merge" else loader.construct_object(key)
        line = key.start_mark.line + 1
        if name in lines:
            raise _Refused(f"the key {key.value!r} stands at line {lines[name]} and again at line {line}")
        lines[name] = line


def _copied(value: Any) -> Any:
    """A tree: what aliases made one object becomes one at each place. Half characters are refused, no file can hold them."""
    if isinstance(value, dict):
        return {_copied(key): _copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise _Refused(f"{value[:40]!a} holds half of a surrogate pair, which is not a character")
    if value is not None and not isinstance(value, str | int | float):  # of a tag such as !!binary or !!set
        raise _Refused(f"a value of type {type(value).__name__} is no setting")
    return value
