"""A user's prompts are kept under the hash of their bytes, and split into sides that share nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config.schema import PromptSource
from engine.data.overlap import remove_overlap
from engine.data.readers import read_prompts
from engine.errors import DraftbenchError
from engine.paths import Home
from engine.planning.own_prompts import keep, keep_pasted, split

SUBJECTS = ("leaves", "rivers", "bread", "stars", "bees", "salt", "wool", "tides", "moss", "glass", "ice", "maps")
FORMS = ("Why do {} matter to us?", "Who first wrote about {}?", "Name two uses of {}.")
ROWS = [{"prompt": form.format(subject)} for subject in SUBJECTS for form in FORMS]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def lines(rows: list[dict[str, str]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def prompts_in(path: str | Path) -> list[str]:
    return [prompt.text for prompt in read_prompts([PromptSource(path=str(path))]).prompts]


def test_the_same_bytes_are_kept_once_and_other_bytes_elsewhere(home: Home):
    first, again = keep(home, "my prompts.jsonl", lines(ROWS)), keep(home, "my prompts.jsonl", lines(ROWS))
    other = keep(home, "my prompts.jsonl", lines(ROWS[1:]))
    assert first == again
    assert first != other
    assert first.name == "my-prompts.jsonl"
    assert prompts_in(first) == [row["prompt"] for row in ROWS]
    assert sorted(path.name for path in first.parent.iterdir()) == ["my-prompts.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("notes.docx", b"x", "not a file of prompts"),
        ("empty.jsonl", b" \n", "is empty"),
        ("../../a.sh", b"x", "not a file"),
    ],
)
def test_what_is_no_prompt_file_is_refused_and_nothing_is_kept(home: Home, name: str, content: bytes, word: str):
    with pytest.raises(DraftbenchError, match=word):
        keep(home, name, content)
    assert not home.root.exists()


def test_a_name_never_leaves_the_home(home: Home):
    path = keep(home, "../../../etc/evil.jsonl", lines(ROWS))
    assert home.root in path.parents
    assert ".." not in path.parts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("Why?\n\n  How?  \n", ["Why?", "How?"]),
        ('{"prompt": "Why?"}\n{"prompt": "How?"}', ["Why?", "How?"]),
        ('[{"prompt": "Why?"}, {"prompt": "How?"}]', ["Why?", "How?"]),
        ("[INST] is no JSON", ["[INST] is no JSON"]),
        ("{curly} neither", ["{curly} neither"]),
    ],
)
def test_pasted_text_is_json_or_a_prompt_a_line(home: Home, text: str, prompts: list[str]):
    assert prompts_in(keep_pasted(home, text)) == prompts


def test_both_sides_share_no_prompt_and_what_was_removed_is_said(home: Home):
    rows = [*ROWS, ROWS[0], {"prompt": ROWS[1]["prompt"] + " "}]
    made = split(home, str(keep(home, "mine.jsonl", lines(rows))))
    train, heldout = prompts_in(made.train), prompts_in(made.heldout)
    assert (len(train), len(heldout)) == (made.train_prompts, made.heldout_prompts)
    assert set(train).isdisjoint(heldout)
    sides = [read_prompts([PromptSource(path=side)]).prompts for side in (made.train, made.heldout)]
    assert remove_overlap(*sides)[1] == []
    assert "left out: 2, each exact repeat of an earlier one" in made.steps
    assert len(heldout) >= 6
    assert split(home, str(next(Path(made.train).parent.parent.glob("*.jsonl")))) == made  # made once


def test_bad_rows_are_refused_unless_they_may_be_left_out(home: Home):
    path = str(keep(home, "mine.jsonl", lines(ROWS) + b'\n{"prompt": 7'))
    with pytest.raises(DraftbenchError):
        split(home, path)
    assert split(home, path, skip_bad=True).train_prompts > 8


def test_too_few_prompts_for_two_sides_are_refused_with_what_is_left(home: Home):
    with pytest.raises(DraftbenchError, match=r"too few|no training prompt"):
        split(home, str(keep(home, "mine.jsonl", lines(ROWS[:3]))))
