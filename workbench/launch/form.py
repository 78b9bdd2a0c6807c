"""The form of a recipe, from its schema: types become widgets, constraints their limits, descriptions their help.

No key, default or limit is written down here; a key that the schema gains appears in the form by
itself. A `Form` draws fields where the page wants them and then whatever is left, section by
section, so nothing can be forgotten. Its `values` are the nested mapping of a recipe. What is out
of sight for a while (see `parts`) keeps what was typed.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import streamlit as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.untrusted.yaml_text import parse_yaml

Kind = Literal["section", "sections", "switch", "choice", "integer", "number", "text", "texts", "yaml"]
_LONG_TEXT = ("notes",)  # drawn with several lines


@dataclass(frozen=True)
class Shape:
    """What a field may hold, as far as a widget must know."""

    kind: Kind
    optional: bool = False
    options: tuple[str, ...] = ()
    section: type[BaseModel] | None = None
    lowest: float | None = None
    highest: float | None = None


def shape_of(field: FieldInfo) -> Shape:
    """The shape of a schema field, from its annotation and constraints."""
    inner, optional = _without_none(field.annotation)
    origin, arguments = get_origin(inner), get_args(inner)
    if _is_section(inner):
        return Shape("section", optional, section=inner)
    if origin is list and _is_section(arguments[0]):
        return Shape("sections", optional, section=arguments[0])
    if origin is list and arguments[0] is str:
        return Shape("texts", optional)
    if origin is Literal:
        return Shape("choice", optional, options=tuple(str(option) for option in arguments))
    simple: dict[Any, Kind] = {bool: "switch", int: "integer", float: "number", str: "text"}
    lowest, highest = _limits(field, whole=inner is int)
    return Shape(simple.get(inner, "yaml"), optional, lowest=lowest, highest=highest)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """`int | None` as (int, True); other unions stay whole."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    rest = [part for part in get_args(annotation) if part is not type(None)]
    optional = len(rest) < len(get_args(annotation))
    return (rest[0], optional) if len(rest) == 1 else (annotation, optional)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _limits(field: FieldInfo, *, whole: bool) -> tuple[float | None, float | None]:
    """Smallest and largest value of a widget; an excluded limit of a float is left to the schema to refuse."""
    limits = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }
    lowest, highest = limits.get("ge"), limits.get("le")
    if "gt" in limits:
        lowest = limits["gt"] + 1 if whole else limits["gt"]
    if "lt" in limits:
        highest = limits["lt"] - 1 if whole else limits["lt"]
    return lowest, highest


def field_at(dotted: str) -> FieldInfo:
    """The schema field of a dotted key such as `train.loss`."""
    section: type[BaseModel] = Recipe
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = shape_of(section.model_fields[parent]).section
        assert inner is not None, f"{parent} of {dotted} is no section"
        section = inner
    return section.model_fields[last]


def leaves(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything that the form draws as one field, in the schema's order."""
    for name, field in section.model_fields.items():
        shape = shape_of(field)
        if shape.kind == "section" and shape.section is not None:
            yield from leaves(shape.section, f"{prefix}{name}.")
        else:
            yield prefix + name


class Form:
    """The widgets of one recipe. `prefix` tells its widgets from those of a form with another beginning."""

    def __init__(
        self,
        initial: Mapping[str, Any],
        prefix: str,
        *,
        choices: Mapping[str, Sequence[str]] | None = None,
        suggestions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`initial`: a whole recipe. `choices` limit a text field to some values, `suggestions` do not."""
        self.initial, self.prefix = initial, prefix
        self.choices, self.suggestions = dict(choices or {}), dict(suggestions or {})
        self.values: dict[str, Any] = {}
        self._drawn: set[str] = set()

    def field(self, dotted: str) -> Any:
        """Draw one field; returns its value."""
        value = self.initial_of(dotted)
        return self.put(dotted, self._widget(dotted, dotted, field_at(dotted), value, label_of(dotted)))

    def put(self, dotted: str, value: Any) -> Any:
        """Set a field without drawing it."""
        *parents, last = dotted.split(".")
        place = self.values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
        self._drawn.add(dotted)
        return value

    def unset(self, dotted: str) -> None:
        """Leave a whole optional section out of the recipe."""
        self.put(dotted, None)
        self._drawn.update(leaf for leaf in leaves() if leaf.startswith(f"{dotted}."))

    def rest(self) -> None:
        """Draw every field not drawn yet, each section in an expander with what the section is about."""
        groups: dict[str, list[str]] = {}
        for dotted in leaves():
            if dotted not in self._drawn:
                groups.setdefault(dotted.partition(".")[0] if "." in dotted else "", []).append(dotted)
        for name, keys in sorted(groups.items(), key=lambda group: not group[0]):  # keys of no section first
            section = shape_of(Recipe.model_fields[name]).section if name else None
            alone = ", ".join(label_of(key).lower() for key in keys).capitalize()
            with st.expander(f"{label_of(name)}: more settings" if name else alone):
                if section is not None and section.__doc__:
                    st.caption(section.__doc__)
                self.grid(keys)

    def grid(self, keys: Sequence[str], columns: int = 3) -> None:
        """Draw fields side by side."""
        for start in range(0, len(keys), columns):
            for place, dotted in zip(st.columns(columns), keys[start : start + columns], strict=False):
                with place:
                    self.field(dotted)

    def initial_of(self, dotted: str) -> Any:
        """What the field began with; the schema's default inside a section that the recipe leaves out."""
        value: Any = self.initial
        for part in dotted.split("."):
            if value is None:
                return default_of(field_at(dotted))
            value = value[part]
        return value

    def _widget(self, dotted: str, key: str, field: FieldInfo, value: Any, label: str) -> Any:
        """One widget. `dotted` is the schema's key, `key` tells the items of a list apart."""
        shape, name = shape_of(field), dotted.rpartition(".")[2]
        explained = f"{_sentence(field.description)}`{dotted}`"
        if shape.kind == "sections" and shape.section is not None:
            st.markdown(f"**{label}**", help=explained)
            return self._sections(dotted, shape.section, value)
        common: dict[str, Any] = {"label": label, "key": f"{self.prefix}:{key}", "help": explained}
        common["persist_state"] = "page"  # also while another mode or tab is looked at
        if dotted in self.choices or dotted in self.suggestions:
            return self._offered(dotted, value, shape.optional, common)
        if name in _LONG_TEXT:
            return st.text_area(value=value or "", height=90, **common)
        return _simple(shape, value, common)

    def _offered(self, dotted: str, value: Any, optional: bool, common: dict[str, Any]) -> Any:
        """A text field with values to choose from."""
        closed = dotted in self.choices
        options = list(
            dict.fromkeys([*([value] if value else []), *(self.choices if closed else self.suggestions)[dotted]])
        )
        value = st.selectbox(
            options=options,
            index=options.index(value) if value else None,
            accept_new_options=not closed,
            placeholder="none" if optional else "choose or type",
            **common,
        )
        return value if optional or value is not None else ""

    def _sections(
        self, dotted: str, section: type[BaseModel], value: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """A list of sections: each with its first field visible, the others in a popover."""
        slot, least = f"{self.prefix}:{dotted}#", _fewest(field_at(dotted))
        shown: list[int] = st.session_state.setdefault(slot, list(range(len(value))))
        items = []
        for item in list(shown):
            given = value[item] if item < len(value) else _blank(section)
            items.append(self._item(dotted, item, section, given, removable=len(shown) > least))
        if st.button(
            "Add another", icon=":material/add:", key=f"{slot}add", type="tertiary", help=f"One more of `{dotted}`"
        ):
            shown.append(max(shown, default=-1) + 1)  # a run that only measures begins with no training prompts
            st.rerun()
        return items

    def _item(
        self, dotted: str, item: int, section: type[BaseModel], given: Mapping[str, Any], *, removable: bool
    ) -> dict[str, Any]:
        first, *others = section.model_fields
        slot = f"{self.prefix}:{dotted}#"

        def widget(name: str) -> Any:
            field = section.model_fields[name]
            label = field.title or words_of(name)
            return self._widget(f"{dotted}.{name}", f"{dotted}.{item}.{name}", field, given[name], label)

        labels = [section.model_fields[name].title or words_of(name) for name in others]
        values: dict[str, Any] = {}
        with st.container(horizontal=True, vertical_alignment="bottom"):
            values[first] = widget(first)
            with st.popover(
                "", icon=":material/tune:", help=f"Other settings of this one: {', '.join(labels).lower()}"
            ):
                values |= {name: widget(name) for name in others}
            if removable and st.button(
                "", icon=":material/close:", key=f"{slot}remove{item}", help="Take this one out"
            ):
                st.session_state[slot].remove(item)
                st.rerun()
        return values


def _fewest(field: FieldInfo) -> int:
    """The fewest items that a list may have."""
    return max((item.min_length for item in field.metadata if hasattr(item, "min_length")), default=0)


def _simple(shape: Shape, value: Any, common: dict[str, Any]) -> Any:
    if shape.kind == "switch":
        return st.toggle(value=bool(value), **common)
    if shape.kind == "choice":
        place = None if value is None else shape.options.index(value)
        return st.selectbox(options=shape.options, index=place, placeholder="none", **common)
    if shape.kind in ("integer", "number") and not _too_large(value):
        return _number(shape, value, common)
    if shape.kind == "texts":
        options = list(value or [])
        return st.multiselect(
            options=options, default=options, accept_new_options=True, placeholder="type one", **common
        )
    if shape.kind in ("yaml", "integer", "number"):
        return read_text(st.text_input(value=written(value), **common))
    return st.text_input(value=value or "", placeholder="none" if shape.optional else "", **common) or (
        None if shape.optional else ""
    )


def _too_large(value: Any) -> bool:
    """Whether a browser's numbers would round it: then it is typed as text."""
    return isinstance(value, int) and abs(value) > 2**53 - 1


def _number(shape: Shape, value: float | None, common: dict[str, Any]) -> Any:
    whole = shape.kind == "integer"
    step = 1 if whole else _step(value, shape.highest)
    numbers = {"value": value, "min_value": shape.lowest, "max_value": shape.highest, "step": step}
    typed: dict[str, Any] = {  # Streamlit wants all of one type
        name: None if number is None else int(number) if whole else float(number) for name, number in numbers.items()
    }
    return st.number_input(format="%d" if whole else "%g", placeholder="not set", **typed, **common)


def _step(value: float | None, highest: float | None) -> float:
    """A step that changes the value visibly without jumping over its range."""
    if highest is not None and highest <= 1:
        return 0.05
    return 10.0 ** math.floor(math.log10(value)) if value else 0.1


def written(value: Any) -> str:
    """Text of a scalar, a mapping or a list; a list of several items without its brackets. `read_text` reads it again
    without loss."""
    if isinstance(value, list):
        inner = ", ".join(_plainly(item) for item in value)
        return inner if len(value) > 1 else f"[{inner}]"  # without its brackets one item would read as a scalar
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_plainly(item)}' for name, item in value.items())}}}"
    return "" if value is None else str(value)


def _plainly(item: Any) -> str:
    """A number in as few digits as give it back: 0 for 0.0, all of them where six would change it."""
    short = f"{item:g}" if isinstance(item, float) else str(item)
    return short if not isinstance(item, float) or float(short) == item else repr(item)


def read_text(text: str) -> Any:
    """Text as YAML, a comma making a list of it. What cannot be read is left for the schema to refuse by name."""
    try:
        is_list = "," in text and not text.strip().startswith(("[", "{"))
        return parse_yaml(f"[{text}]" if is_list else text, "the text")
    except DraftbenchError:
        return text


def _blank(section: type[BaseModel]) -> dict[str, Any]:
    """The section's defaults; required fields begin empty."""
    return {name: default_of(field) for name, field in section.model_fields.items()}


def default_of(field: FieldInfo) -> Any:
    """The first value of a widget without a recipe; a required field begins empty."""
    return "" if field.is_required() else field.get_default(call_default_factory=True)


def label_of(dotted: str) -> str:
    """The label of a recipe key: its title in the schema, or its name in words."""
    return field_at(dotted).title or words_of(dotted.rpartition(".")[2])


def words_of(name: str) -> str:
    """A key for people: 'max_new_tokens' as 'Max new tokens', 'prompts' as 'Prompts'."""
    words = name.replace("_", " ").replace(".", ": ").replace("heldout", "held-out")
    return words[:1].upper() + words[1:]


def _sentence(description: str | None) -> str:
    if not description:
        return ""
    # a dollar would begin a formula; angle brackets are not used, square ones would begin a link
    return description[0].upper() + description[1:].replace("$", "\\$").replace("[", "\\[") + ".  \n"
