"""The part of a recipe that decides the draft's weights and its exact acceptance, by the marks on the schema's fields.

Findings compare two runs by it, and a study recognises its cells by it. Evaluations during training
(`eval_every`, `eval_prompts`) belong to it: they choose which step's weights are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config.schema import Recipe, TrainSpec
from engine.config.section import Section, Values, mark_of, section_of

# Sections of `train`, which only some runs use.
SECTIONS = tuple(name for name, field in TrainSpec.model_fields.items() if section_of(field) and name != "loss")


def decisive(values: Values, section: type[Section] = Recipe) -> dict[str, Any]:
    """A copy of a recipe's values without labels, keys that have no effect, and keys that change no exact rate.

    `values`: as `Recipe.model_dump` gives them or as config.yaml holds them; keys and sections that an
    older recipe lacks may be missing. Nothing is filled in, and nothing in `values` is changed.
    """
    kept: dict[str, Any] = {}
    for key, value in values.items():
        field = section.model_fields.get(key)
        mark = None if field is None else mark_of(field)
        if mark is None or (mark.affects == "weights" and mark.used(values)):
            inner = section_of(field)
            kept[key] = value if inner is None else _inside(value, inner)
    if section is Recipe and _drops_out(values):  # what an update does not see is drawn for each micro-batch
        kept["train"]["micro_batch_tokens"] = values["train"].get("micro_batch_tokens")
    return kept


def _drops_out(values: Values) -> bool:
    """Whether a draft's adapter is trained with dropout: then the size of a pass changes its weights."""
    draft, train = values.get("draft"), values.get("train")
    adapter = draft.get("lora") if isinstance(draft, Mapping) else None
    return isinstance(train, Mapping) and isinstance(adapter, Mapping) and bool(adapter.get("dropout"))


def _inside(value: Any, section: type[Section]) -> Any:
    if isinstance(value, Mapping):
        return decisive(value, section)
    return [_inside(item, section) for item in value] if isinstance(value, list) else value
