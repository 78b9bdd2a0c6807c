"""YAML from users and strangers: recipes, studies, the values of `--set`, settings in a link.

PyYAML's safe loader creates no Python objects, but it keeps the last of two equal keys, expands aliases without a
limit and gives every alias the same list, so that a change in one place changes all of them. Here a key that comes
twice is refused with both lines, size and depth are bounded, and every alias becomes a copy. Dates stay text: no
setting is a date, and 2025-13-45 is not one either.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from engine.errors import DraftbenchError, boundary
from engine.untrusted.regular_files import printable, read_text

MAX_BYTES = 512 * 1024
_MAX_VALUES = 100_000  # after all aliases are copied
_MAX_DEPTH = 50
_SHOWN_CHARACTERS = 600
_TAG = "tag:yaml.org,2002:"
_NUMBERS = frozenset({_TAG + "int", _TAG + "float"})
_WORDS = frozenset({_TAG + "str", _TAG + "merge"})
# Numbers of YAML 1.1 that most people, and YAML 1.2, read differently: 010 is eight there, and 1:30 is ninety.
_AMBIGUOUS_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9.]+)+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NESTED = re.compile(r"(?:[-?:] ){8}|^ {40}", re.MULTILINE)
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Refused(Exception):
    """Valid YAML that is not a recipe; the message says why."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader in Python, which descends by recursion, with a limit on the depth."""

    yaml_implicit_resolvers = _RESOLVERS
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > _MAX_DEPTH:
            line = parent.start_mark.line + 1 if parent is not None else 1
            raise _Refused(f"it is nested deeper than {_MAX_DEPTH} levels at line {line}")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > _MAX_DEPTH:  # before all brackets of a long row are scanned
            raise _Refused(f"it is nested deeper than {_MAX_DEPTH} levels at line {self.get_mark().line + 1}")
        super().fetch_flow_collection_start(token)


class _QuickLoader(yaml.CSafeLoader):
    """libyaml's loader: seven times faster, but values nested some thousand levels deep end the process."""

    yaml_implicit_resolvers = _RESOLVERS


def _loader_class(text: str) -> type[_Loader | _QuickLoader]:
    """The fast loader for text that cannot be nested deeply, such as what `dump_recipe` writes."""
    is_shallow = text.count("[") + text.count("{") < 500 and not _NESTED.search(text)
    return _QuickLoader if is_shallow else _Loader


def read_yaml(path: Path) -> Any:
    """Read the value in a YAML file. Raises DraftbenchError naming the file, whatever it contains."""
    return parse_yaml(read_text(path, MAX_BYTES), printable(path))


def parse_yaml(text: str, named: str, fix: str = "correct the file at the place named") -> Any:
    """Parse `text`, whose origin is `named` in errors. Raises DraftbenchError, whatever the text."""
    what = f"{named} is not valid YAML"
    with boundary(what, fix):
        try:
            loader = _loader_class(text)(text)
            node = loader.get_single_node()
            if node is None:
                return None
            _check(loader, node)
            return _copied(loader.construct_document(node))
        except yaml.YAMLError as error:
            raise DraftbenchError(f"{what}: {printable(error)[:_SHOWN_CHARACTERS]}", "", fix) from None
        except _Refused as error:
            raise DraftbenchError(
                f"{named}: {error}", "a run must be made from exactly what the recipe says", fix
            ) from None


def is_plain_value(text: str, most_depth: int) -> bool:
    """Whether YAML text has no aliases and nests at most `most_depth` collections; True for text that is not YAML."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > most_depth or isinstance(event, yaml.AliasEvent):
                return False
    except (yaml.YAMLError, RecursionError, ValueError):
        pass  # `parse_yaml` says what is wrong with it
    return True


def _check(loader: _Loader | _QuickLoader, node: yaml.Node) -> None:
    """Refuse a key that comes twice, an ambiguous number, and aliases that contain themselves or multiply the text."""
    sizes: dict[int, int] = {}

    def size(part: yaml.Node) -> int:
        if isinstance(part, yaml.ScalarNode):  # most of a recipe
            if part.tag in _NUMBERS and _AMBIGUOUS_NUMBER.fullmatch(part.value):
                raise _Refused(
                    f"{part.value} at line {part.start_mark.line + 1} is another number to another reader of YAML; "
                    "write a plain number, or text in quotes"
                )
            return 1
        known = sizes.get(id(part))
        if known == 0:
            raise _Refused(f"the value at line {part.start_mark.line + 1} contains itself")
        if known is None:
            sizes[id(part)] = 0
            inner: list[yaml.Node] = part.value
            if isinstance(part, yaml.MappingNode):
                _refuse_duplicate_keys(loader, part)
                inner = [child for pair in part.value for child in pair]
            known = sizes[id(part)] = 1 + sum(size(child) for child in inner)
            if known > _MAX_VALUES:
                raise _Refused(f"it holds more than {_MAX_VALUES:,} values once its aliases are written out")
        return known

    size(node)


def _refuse_duplicate_keys(loader: _Loader | _QuickLoader, mapping: yaml.MappingNode) -> None:
    lines: dict[Any, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(f"the key at line {key.start_mark.line + 1} is not a plain word")
        # `<<` brings in another mapping, whose keys those beside it override on purpose.
        name = key.value if key.tag in _WORDS else loader.construct_object(key)
        line = key.start_mark.line + 1
        if name in lines:
            raise _Refused(f"the key {key.value!r} stands at line {lines[name]} and again at line {line}")
        lines[name] = line


def _copied(value: Any) -> Any:
    """Return the value as a tree, with a copy for each alias. Half a surrogate pair is refused: no file can hold it."""
    if isinstance(value, dict):
        return {_copied(key): _copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    if isinstance(value, str) and _SURROGATE.search(value):
        raise _Refused(f"{value[:40]!a} holds half of a surrogate pair, which is not a character")
    if value is not None and not isinstance(value, str | int | float):  # of a tag such as !!binary or !!set
        raise _Refused(f"a value of type {type(value).__name__} is not a setting")
    return value
