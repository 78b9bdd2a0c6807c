"""Settings that a recipe gives and that nothing reads, given the others: said before a start, and never refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.config.reading import one_line
from engine.config.schema import RUN_DATE, OnPolicySpec, Recipe
from engine.config.section import Section, mark_of

# Beside what the marks say of one section. `train.seed` also draws the weights of a draft that is not trained.
_CAPTURE = "temperature top_p top_k max_new_tokens seed signal_top_k"
_OF_TRAINING = frozenset({"train", *(f"capture.{key}" for key in _CAPTURE.split())})
_DECODING = (
    "num_draft_tokens adaptive proposals trace_prompts speed_prompts speed_tokens speed_temperature "
    "certificate_prompts certificate_tokens"
)
_OF_DECODING = frozenset(f"measure.{key}" for key in _DECODING.split())


_CUT = frozenset({"capture.top_p", "capture.top_k"})
_OF_DRAFTS_TEXT = frozenset(f"train.on_policy.{key}" for key in OnPolicySpec.model_fields if key != "share")


def idle_settings(recipe: Recipe) -> list[str]:
    """`key=value` of each setting that is not the default and has no effect beside the others of the recipe."""
    unread = _unread_in_training(recipe) if recipe.trains else _OF_TRAINING
    if recipe.trains and recipe.measure.against == "server":  # acceptance alone is measured
        unread |= _OF_DECODING
    return [setting for setting in _idle(recipe, "", unread) if not setting.startswith("train.seed=")]


def _unread_in_training(recipe: Recipe) -> frozenset[str]:
    train, unread = recipe.train, frozenset[str]()
    if train.supervision == "black_box":  # the text is what it is, at any temperature
        unread |= {"train.distill_temperature"}
    if recipe.capture.temperature == 0:
        unread |= _CUT
    if train.on_policy.share == 0:
        unread |= _OF_DRAFTS_TEXT
    return unread


def _idle(section: Section, prefix: str, unread: frozenset[str], *, whole: bool = False) -> Iterator[str]:
    """The idle settings of a section: all that are given, if the `whole` section is idle."""
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + name
        if not _is_given(value, field.get_default(call_default_factory=True)):
            continue
        idle = whole or key in unread or not mark_of(field).used(values)
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, Section) for item in items):
            for number, item in enumerate(items, 1):
                yield from _idle(item, f"{key}.{number}." if len(items) > 1 else f"{key}.", unread, whole=idle)
        elif idle:
            yield f"{key}={one_line(values[name])}"


def _is_given(value: Any, default: Any) -> bool:
    return value not in (None, default) and not str(value).startswith(RUN_DATE)
