"""The documents say what the code says: cards of the catalogue, paths of files, README's tree."""

from __future__ import annotations

import re
import runpy
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.catalogue import Mode
from engine.config.reading import schema_rows
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


def test_a_card_without_a_source_names_none(cards: dict[str, Any]):
    assert cards["card_text"](Mode("mine", "Mine", "Short answers first.")) == "Short answers first."


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


def anchors(page: str) -> set[str]:
    """The fragments that lead to a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading in it."""
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, fragment = link.partition("#")
        to = page.parent / name if name else page
        if not to.exists() or (fragment and fragment not in anchors(to.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path):
    assert broken_links(page) == []


def test_a_link_to_no_heading_would_be_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# One, two\n\n[here](#one-two) [gone](#three) [no file](other.md) [far](https://example.org)\n")
    assert broken_links(page) == ["#three", "other.md"]


def doubled(page: str) -> list[str]:
    """Headings and long lines of text that stand on a page twice: what a merge leaves of two edits of one place."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    lines = Counter(line for line in text.splitlines() if line.startswith("## ") or re.match(r" {0,3}[^ |]", line))
    return [line for line, times in lines.items() if times > 1 and (line.startswith("## ") or len(line) > 60)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_says_a_line_twice(page: Path):
    assert doubled(page.read_text(encoding="utf-8")) == []


def test_a_doubled_line_would_be_seen():
    line = "- **A reason that is long enough to be no accident when it stands on a page twice.**"
    assert doubled(f"## A\n\n{line}\n\n## B\n\n{line}\n\n## A\n") == ["## A", line]


def unknown_keys(page: str) -> set[str]:
    """The names in a page that look like keys of a recipe, `train.epochs`, and are none."""
    keys = {row["key"].replace("[]", "") for row in schema_rows()}
    known = keys | {".".join(key.split(".")[:depth]) for key in keys for depth in range(1, key.count(".") + 1)}
    sections = "|".join(sorted({key.partition(".")[0] for key in keys if "." in key}))
    named = re.findall(rf"(?:`|--set ['\"]?)((?:{sections})\.[a-z_.]*[a-z_])(?=[`:=\s])", page)
    return {name for name in named if name not in known}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_of_a_recipe_that_a_page_names_exists(page: Path):
    assert unknown_keys(page.read_text(encoding="utf-8")) == set()


def test_a_key_that_is_none_would_be_seen():
    page = "Set `train.epochs: 3`, `train.epoch` and `draft.lora`, or type --set measure.gama=2."
    assert unknown_keys(page) == {"train.epoch", "measure.gama"}
