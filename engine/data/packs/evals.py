"""Read biology questions with choices and Chinese parables with their morals from OpenAI's evals.

The MMLU items are not in the package: its registry only refers to a hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.data.packs.biology import is_biology
from engine.data.packs.entry import Entry, user
from engine.packages import read_member

Row = dict[str, Any]

_FOLDER = "evals/registry/data"
_BASIC_SCIENCE = {"Anatomy", "Physiology", "Biochemistry", "Microbiology", "Pathology", "Pharmacology"}
_CHOICE = re.compile(r"\s*([A-E])[):]\s*")
_MORAL_QUESTION = "\nWhich moral is this story attempting to convey?"
_ASK_MORAL = "这则故事说明了什么道理？"


def read(archive: Path) -> Iterator[Entry]:
    """Yield the basic-science questions of MedMCQA, the biological ones of QuaRTz, and the parables."""
    for number, row in enumerate(_rows(archive, "medmcqa/samples.jsonl")):
        yield from _medmcqa(number, row)
    for number, row in enumerate(_rows(archive, "quartz/samples.jsonl")):
        yield from _quartz(number, row)
    for number, row in enumerate(_rows(archive, "parable-to-moral-match/parable-to-moral-match-zh.jsonl")):
        yield from _parable(number, row)


def _rows(archive: Path, member: str) -> list[Row]:
    text = read_member(archive, f"{_FOLDER}/{member}").decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _question(row: Row) -> str:
    return str(row["input"][-1]["content"])


def _medmcqa(number: int, row: Row) -> Iterator[Entry]:
    subject, _, question = _question(row).partition("\n\n")
    name = subject.removeprefix("Subject: ")
    if name in _BASIC_SCIENCE:
        yield {
            "id": f"evals-medmcqa-{number}",
            "domain": "biology",
            "scenario": "curated",
            "messages": user(question),
            "reference": f"The correct answer is {row['ideal']}.",
            "source": "MedMCQA in evals",
            "licence": "MIT",
            "group": name.lower(),
        }


def _quartz(number: int, row: Row) -> Iterator[Entry]:
    text = _question(row)
    choices = dict(re.findall(r"^\s*([A-D]):\s*(.+?)\s*$", text, re.MULTILINE))
    if is_biology(text) and row["ideal"] in choices:
        yield {
            "id": f"evals-quartz-{number}",
            "domain": "biology",
            "scenario": "curated",
            "messages": user(text),
            "reference": f"The correct answer is {row['ideal']}: {choices[row['ideal']]}.",
            "source": "QuaRTz in evals",
            "licence": "CC BY 4.0",
            "group": "relations",
        }


def _parable(number: int, row: Row) -> Iterator[Entry]:
    """The story with a question in Chinese instead of the English one, and the text of the right choice."""
    story, _, rest = _question(row).partition(_MORAL_QUESTION)
    listed = rest.partition("\n")[2].partition("\nThe output should look like")[0]
    parts = _CHOICE.split(listed)
    choices = dict(zip(parts[1::2], parts[2::2], strict=True))
    letter = row["ideal"][0].strip()[-1]
    if letter in choices:
        yield {
            "id": f"evals-parable-zh-{number}",
            "domain": "chinese",
            "scenario": "curated",
            "messages": user(f"{story.strip()}\n\n{_ASK_MORAL}"),
            "reference": choices[letter].strip(),
            "source": "parable-to-moral-match (Chinese) in evals",
            "licence": "MIT",
            "group": "parable",
        }
