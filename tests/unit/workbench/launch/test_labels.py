"""What Launch calls a recipe's keys and its starting points: plain words, no key of YAML and no file's name."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from engine.config.schema import Recipe
from workbench.launch import starting, studies_view
from workbench.launch.form import Shape, field_at, label_of, leaves, shape_of, words_of
from workbench.launch.parts import SWITCHES, parts

PLAIN = re.compile(r"[A-Z][^_.:]*")


def inside(dotted: str) -> list[str]:
    """The labels of the fields of one item of a list, such as a loss."""
    shape: Shape = shape_of(field_at(dotted))
    fields = shape.section.model_fields if shape.kind == "sections" and shape.section else {}
    return [field.title or words_of(name) for name, field in fields.items()]


@pytest.mark.parametrize("dotted", [*leaves(), *Recipe.model_fields])
def test_a_label_is_plain_words(dotted: str):
    for label in (label_of(dotted), *inside(dotted)):
        assert PLAIN.fullmatch(label), label


def test_labels_of_a_section_differ():
    for section in {dotted.rpartition(".")[0] for dotted in leaves()}:
        labels = Counter(label_of(dotted) for dotted in leaves() if dotted.rpartition(".")[0] == section)
        assert max(labels.values()) == 1, labels.most_common(1)


def test_every_optional_part_has_words_of_its_own():
    assert {part.key for part in parts() if not part.choice} == set(SWITCHES)


def test_starting_points_are_called_by_plain_words():
    studies = [starting.title(path) for path in studies_view.STUDIES.glob("*.yaml")]
    recipes = list(starting.recipe_titles().values())
    for titles in (studies, recipes):
        assert max(Counter(titles).values()) == 1
        for title in titles:
            assert 4 <= len(title) <= 60, title
            assert not re.search(r"\.yaml|/|_", title), title
