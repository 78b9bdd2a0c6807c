"""Read questions that people typed into search engines, from the topics in Pyserini's jar."""

from __future__ import annotations

import ast
import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine.data.packs.biology import is_biology
from engine.data.packs.entry import Entry, user
from engine.packages import copy_member, read_member

_JAR = "pyserini/resources/jars/anserini-0.20.0-fatjar.jar"


class Question(NamedTuple):
    """A question, its name in its file, and the annotators' short answer, if there is one."""

    name: str
    text: str
    answer: str = ""


def read(archive: Path) -> Iterator[Entry]:
    """Yield every question of the topics. English ones about living things are biology, the others general."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        jar = Path(folder) / "topics.jar"
        copy_member(archive, _JAR, jar)
        for topics in _TOPICS:
            raw = read_member(jar, f"topics-and-qrels/{topics.member}")
            text = (gzip.decompress(raw) if topics.member.endswith(".gz") else raw).decode("utf-8")
            for question in topics.questions(text):
                yield _entry(topics, question)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines: some questions hold other line separators of Unicode.
    return ((number, line.rstrip("\r")) for number, line in enumerate(text.split("\n")) if line.strip())


def _with_answers(text: str) -> Iterator[Question]:
    """Lines of a question, a tab, and a list of short answers in Python's syntax."""
    for number, line in _lines(text):
        question, _, answers = line.partition("\t")
        listed = ast.literal_eval(answers)
        yield Question(str(number), question, listed[0] if listed else "")


def _json_lines(text: str) -> Iterator[Question]:
    for number, line in _lines(text):
        yield Question(str(number), json.loads(line)["question"])


def _numbered(text: str) -> Iterator[Question]:
    """Lines of a number, a tab, and a question."""
    for _, line in _lines(text):
        name, _, question = line.partition("\t")
        yield Question(name, question)


class Topics(NamedTuple):
    """A file of questions in the jar."""

    name: str
    member: str
    questions: Callable[[str], Iterator[Question]]
    origin: str
    licence: str
    chinese: bool = False


_NQ, _WEB = ("Natural Questions", "CC BY-SA 3.0"), ("WebQuestions", "CC BY 4.0")
_TYDI, _MIRACL = ("Mr. TyDi 1.1", "Apache-2.0"), ("MIRACL 1.0", "Apache-2.0")
_TOPICS = (
    Topics("nq-dev", "topics.nq.dev.txt", _with_answers, *_NQ),
    Topics("nq-test", "topics.nq.test.txt", _with_answers, *_NQ),
    Topics("wq-test", "topics.dpr.wq.test.txt", _json_lines, *_WEB),
    Topics("mrtydi-train", "topics.mrtydi-v1.1-en.train.txt.gz", _numbered, *_TYDI),
    Topics("mrtydi-dev", "topics.mrtydi-v1.1-en.dev.txt.gz", _numbered, *_TYDI),
    Topics("mrtydi-test", "topics.mrtydi-v1.1-en.test.txt.gz", _numbered, *_TYDI),
    Topics("miracl-en-dev", "topics.miracl-v1.0-en-dev.tsv", _numbered, *_MIRACL),
    Topics("miracl-zh-dev", "topics.miracl-v1.0-zh-dev.tsv", _numbered, *_MIRACL, True),
)


def _entry(topics: Topics, question: Question) -> Entry:
    entry: Entry = {
        "id": f"pyserini-{topics.name}-{question.name}",
        "domain": "chinese" if topics.chinese else "biology" if is_biology(question.text) else "general",
        "scenario": "historical",
        "messages": user(question.text.strip()),
        "source": f"{topics.origin} ({topics.name})",
        "licence": topics.licence,
        "group": topics.origin,
    }
    if question.answer.strip():
        entry["reference"] = question.answer.strip()
    return entry
