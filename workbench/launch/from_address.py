"""What a link may fill a form with, and what only a person may set.

Anybody can write a link. It may name prompts, models and numbers, which the page shows and looks at
only after a click. It may give no right and name no server or key: the fields that `engine.config.schema`
marks as set `by_hand` keep what they were, and the page says what the link asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.config.reading import apply_overrides, one_line, put, value_at
from engine.config.schema import Recipe
from engine.config.section import Section, mark_of, section_of
from engine.errors import DraftbenchError
from engine.untrusted.yaml_text import is_plain_value

_MOST_SETTINGS = 100
_LONGEST = 2000  # characters of a setting
_DEEPEST = 12  # lists and mappings inside each other
_SHOWN = 160  # characters of a setting that was not taken
_TRUST = "target.trust_remote_code"
_CODE = ("target", "draft", "train.selection")  # what names the models whose code a trusting recipe runs


@dataclass(frozen=True)
class Taken:
    """Values of a recipe, unchecked, with a link's settings over them; and the settings that were not taken."""

    values: dict[str, Any]
    refused: tuple[str, ...]


def by_hand(section: type[Section] = Recipe, prefix: str = "") -> Iterator[str]:
    """Dotted keys, of fields or whole sections, that no address sets."""
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if mark_of(field).by_hand:
            yield prefix + name
        elif inner is not None:
            yield from by_hand(inner, f"{prefix}{name}.")


def is_by_hand(setting: str) -> bool:
    """Whether `key=value` sets something that is kept out of addresses."""
    key = setting.partition("=")[0].strip()
    return any(key == one or key.startswith(f"{one}.") for one in by_hand())


def taken(values: Mapping[str, Any], settings: Sequence[str]) -> Taken:
    """`values` with a link's settings, as far as a link may set them. Raises DraftbenchError for unreadable ones."""
    for setting in settings[: _MOST_SETTINGS + 1]:
        _refuse_wild(setting)
    if len(settings) > _MOST_SETTINGS:
        raise DraftbenchError(f"the link has more than {_MOST_SETTINGS} settings", "", "put them into a recipe")
    asked = apply_overrides(values, settings)
    refused = []
    for key in by_hand():
        wish, kept = value_at(asked, key), value_at(values, key)
        if wish != kept:
            refused.append(_shown(key, wish))
            put(asked, key, kept)
    if value_at(asked, _TRUST) and any(value_at(asked, key) != value_at(values, key) for key in _CODE):
        refused.append(f"{_TRUST}=true, for another model")  # trust in one model is no trust in what a link names
        put(asked, _TRUST, False)
    return Taken(asked, tuple(refused))


def _refuse_wild(setting: str) -> None:
    """Refuse settings that are small to write and large to read: long texts, references, nesting."""
    why = ""
    if len(setting) > _LONGEST:
        why = f"it is longer than {_LONGEST:,} characters"
    elif not is_plain_value(setting.partition("=")[2], _DEEPEST):
        why = "it refers to itself or nests too deeply"
    if why:
        raise DraftbenchError(
            f"the link's setting {setting[:_SHOWN]!r} is not taken", why, "set it in the form, or in a recipe"
        )


def _shown(key: str, wish: Any) -> str:
    text = f"{key}={one_line(wish)}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
