"""The documents say what the code says: cards of the catalogue, paths of files, README's tree."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from engine.paths import PROJECT_ROOT
from tests.unit.cli.test_commands import ROOT, parse

PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
TO_BE_WRITTEN = "extending.md"  # names files that its reader adds
PATH = re.compile(
    r"(?:engine|workbench|pages|tests|benchmarks|docs|recipes|sample_data)/[\w./-]*\w\.(?:py|md|yaml|jsonl|csv)\b"
)
EXAMPLES = re.compile(r"\b[A-Z]{3,}\b")  # recipes/NAME.yaml stands for any recipe


@pytest.fixture(scope="module")
def cards() -> dict[str, Any]:
    return runpy.run_path(str(PROJECT_ROOT / "docs" / "cards.py"))


def test_the_training_modes_are_explained_as_in_the_catalogue(cards: dict[str, Any]):
    page = cards["PAGE"].read_text(encoding="utf-8")
    assert cards["with_cards"](page) == page, "run `python docs/cards.py`"
    assert set(re.findall("<!-- card: (.+?) -->", page)) == set(cards["CARDS"]), "each card has its place on the page"


def test_a_page_with_another_text_would_be_seen(cards: dict[str, Any]):
    page = "<!-- card: offline -->\nSomething else.\n<!-- end of card -->"
    assert "Something else" not in cards["with_cards"](page)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != TO_BE_WRITTEN], ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    named = set(PATH.findall(text)) - set(re.findall(r"^# (\S+) \(new file\)$", text, re.MULTILINE))
    assert [name for name in sorted(named) if not EXAMPLES.search(name) and not (PROJECT_ROOT / name).exists()] == []


def test_readmes_tree_has_every_room_of_the_engine():
    tree = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8").partition("## Layout")[2]
    rooms = {path.parent.name for path in (PROJECT_ROOT / "engine").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == rooms


def command_lines(page: str) -> list[list[str]]:
    """The arguments of each `draftbench` line of a code block, and of each command in the text that has arguments."""
    lines = re.findall(r"^ {4}draftbench (.*)$", page.replace("\\\n", " "), re.MULTILINE)
    lines += [line for line in re.findall(r"`draftbench ([^`]+)`", re.sub(r"\s*\n\s*", " ", page)) if " " in line]
    commands = [shlex.split(line, comments=True) for line in lines]
    return [command[: command.index(">")] if ">" in command else command for command in commands]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_typed(page: Path):
    for arguments in command_lines(page.read_text(encoding="utf-8")):
        parse(ROOT, "draftbench", arguments)


def test_a_command_that_is_none_would_be_seen():
    (arguments,) = command_lines("Look at it with `draftbench show\n  --tal latest`.")
    with pytest.raises(Exception, match="No such option"):
        parse(ROOT, "draftbench", arguments)
