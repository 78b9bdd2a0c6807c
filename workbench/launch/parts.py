"""Sections inside a section, such as `train.online`, in the form: shown, or with the values that they began with.

A section that is named like a value of a choice beside it belongs to that value: `train.online` is shown
where `train.mode` is, or is swept over, online. What is not in sight stays in the recipe as it began, and the
widgets keep what was typed. The others are optional and have a switch; switched off, they are left out or
have the schema's defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st
from pydantic import BaseModel

from engine.catalogue import MODES
from engine.config.schema import Recipe
from workbench.launch.form import Form, default_of, field_at, label_of, leaves, shape_of, words_of
from workbench.shared import ui

# What the switch of an optional part says, and what to know before it is used. The schema says all else.
SWITCHES = {
    "train.selection": ("Token selection", "Learn from some positions only", "It works once the share is below 1."),
    "draft.lora": (
        "An adapter on a shared draft",
        "Train a LoRA adapter instead of all weights",
        "It is made for what the draft starts from, nearly always a checkpoint.",
    ),
    "capture.server": (
        "Answers from a server",
        "Fetch the training answers instead of writing them here",
        "From its text alone a draft learns with the loss sft, and *none* kept of the target's distribution. With "
        "*compact* kept of it and a number of likeliest tokens, every loss sees these and one bucket for the rest; "
        "that needs the mode offline, the temperature 1 of the distillation and no trimmed vocabulary.",
    ),
}
KEY_NAME = "capture.server.key_env"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_HOLDS_A_KEY = re.compile(r".*(_KEY|_TOKEN)$")


@dataclass(frozen=True)
class Part:
    """A section inside a section. `option` is the value of the key `choice` that it belongs to, if it does."""

    key: str
    section: type[BaseModel]
    optional: bool = False
    choice: str = ""
    option: str = ""

    @property
    def leaves(self) -> list[str]:
        return list(leaves(self.section, f"{self.key}."))


def parts() -> list[Part]:
    """Every section inside a section of a recipe, in the schema's order."""
    listed = []
    for outer, field in Recipe.model_fields.items():
        section = shape_of(field).section if shape_of(field).kind == "section" else None
        for name, inner in section.model_fields.items() if section else ():
            shape = shape_of(inner)
            if section and shape.kind == "section" and shape.section:
                choice = _choice_with(section, name)
                belongs = {"choice": f"{outer}.{choice}", "option": name} if choice else {}
                listed.append(Part(f"{outer}.{name}", shape.section, shape.optional, **belongs))
    return listed


def _choice_with(section: type[BaseModel], option: str) -> str | None:
    """The choice of a section that has such an option."""
    return next((name for name, field in section.model_fields.items() if option in shape_of(field).options), None)


def show(form: Form, swept: Mapping[str, Sequence[Any]]) -> None:
    """Draw the parts that are wanted and settle the others. `swept`: values of a sweep by recipe key."""
    for part in sorted(parts(), key=lambda part: (not part.choice, part.optional)):  # modes first
        if not part.choice:
            _optional(form, part)
        elif part.option in (_value(form, part.choice), *swept.get(part.choice, ())):
            _of_choice(form, part)
        else:
            for dotted in part.leaves:
                form.put(dotted, form.initial_of(dotted))


def _value(form: Form, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return form.values.get(section, {}).get(name)


def _of_choice(form: Form, part: Part) -> None:
    choice = words_of(part.choice.rpartition(".")[2]).lower()
    mode = MODES.get(part.option)
    title = f"{(mode.called if mode else words_of(part.option)).capitalize()} {choice}"
    with st.expander(title, expanded=True, key=f"{form.prefix}:part:{part.key}"):
        _about(part, mode.note if mode else "")
        form.grid(part.leaves)


def _optional(form: Form, part: Part) -> None:
    title, label, note = SWITCHES.get(part.key, (label_of(part.key), f"Set {label_of(part.key).lower()}", ""))
    begins_on = _differs(form, part)
    with st.expander(title, expanded=begins_on, key=f"{form.prefix}:part:{part.key}"):
        _about(part, note)
        if st.toggle(label, value=begins_on, key=f"{form.prefix}:use:{part.key}", persist_state="page"):
            form.grid(part.leaves)
            _check_name(form)
        elif part.optional:
            form.unset(part.key)
        else:
            for dotted in part.leaves:
                form.put(dotted, default_of(field_at(dotted)))


def _differs(form: Form, part: Part) -> bool:
    """Whether the recipe that the form began with makes use of the part."""
    if part.optional:
        return form.initial_of(part.key) is not None
    return any(form.initial_of(dotted) != default_of(field_at(dotted)) for dotted in part.leaves)


def _about(part: Part, note: str) -> None:
    st.caption(f"{ui.sentence(part.section.__doc__ or '')} {note}".strip())


def key_names() -> list[str]:
    """Names, never values, of this machine's environment variables that may hold a server's key."""
    return sorted(name for name in os.environ if _HOLDS_A_KEY.fullmatch(name))


def _check_name(form: Form) -> None:
    """Refuse what looks like a key where the name of its variable belongs; it goes into no recipe, URL or command."""
    server = form.values.get("capture", {}).get("server") or {}
    typed = server.get("key_env")
    if typed and typed not in os.environ and not _VARIABLE.fullmatch(typed):
        form.put(KEY_NAME, None)
        st.error(
            "**This is not the name of an environment variable**\n\nWhy: a key must never be typed here; it would end "
            "up in files and links. It was not taken over.\n\nWhat to do: set the key where the server is started, for "
            "example `export API_KEY=...`, and choose its name, `API_KEY`.",
            icon=":material/key_off:",
        )
