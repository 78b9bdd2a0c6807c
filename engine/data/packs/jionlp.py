"""Read Chinese prompts from JioNLP: hand-written test questions, idioms to explain and sayings to complete."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from engine.data.packs.entry import Entry, user
from engine.packages import read_member

LICENCE = "Apache-2.0"
_DICTIONARY = "jionlp/dictionary"
# Questions on ethics are left out: they ask how to do harm, to see whether a model declines.
_TESTS = (
    "jionlp_LLM_test_1.0",
    "jionlp_LLM_test_1.1",
    "jionlp_LLM_test_1.2",
    "jionlp_coding_question",
    "jionlp_logic_question",
    "jionlp_math_question",
    "jionlp_robot_question",
)
_ETHICS = "社会伦理"
_IDIOMS = 300
_SAYINGS = 300
_IDIOM_FORMS = (
    "成语“{}”是什么意思？请造一个句子。",
    "请解释“{}”这个成语，并说说它适合用在什么场合。",
    "“{}”怎么理解？能举个例子吗？",
    "写作文时想用“{}”，请告诉我它的含义和一个例句。",
)
_SAYING_FORMS = (
    "歇后语“{}”的后半句是什么？",
    "请接下句：{}——",
    "俗话说“{}”，后面一般接什么？",
)


def read(archive: Path) -> Iterator[Entry]:
    """The test questions, then the most used idioms, then a sample of the sayings with their second half."""
    yield from _questions(archive)
    yield from _idioms(archive)
    yield from _sayings(archive)


def _entry(name: str, text: str, group: str, source: str) -> Entry:
    return {
        "id": f"jionlp-{name}",
        "domain": "chinese",
        "scenario": "curated",
        "messages": user(text),
        "source": f"JioNLP, {source}",
        "licence": LICENCE,
        "group": group,
    }


def _questions(archive: Path) -> Iterator[Entry]:
    """The test questions, without a reference: the files' right answers are notes for a human marker."""
    for name in _TESTS:
        text = read_member(archive, f"{_DICTIONARY}/jionlp_LLM_test/{name}.json").decode("utf-8")
        for number, row in enumerate(json.loads(line) for line in text.split("\n") if line.strip()):
            if _ETHICS not in row["question_type"]:
                yield _entry(f"{name}-{number}", row["question"].strip(), "question", name)


def _idioms(archive: Path) -> Iterator[Entry]:
    counted = [line.split("\t") for line in _zipped_lines(archive, "chinese_idiom")]
    by_frequency = sorted(((int(count), idiom) for idiom, count in counted), key=lambda pair: (-pair[0], pair[1]))
    for _, idiom in by_frequency[:_IDIOMS]:
        yield _entry(f"idiom-{idiom}", _form(_IDIOM_FORMS, idiom), "idiom", "idioms")


def _sayings(archive: Path) -> Iterator[Entry]:
    seconds: dict[str, str] = {}
    for line in _zipped_lines(archive, "xiehouyu"):
        first, second = line.split("\t")[:2]
        seconds.setdefault(first, second)
    for first in sorted(seconds, key=_digest)[:_SAYINGS]:
        entry = _entry(f"saying-{first}", _form(_SAYING_FORMS, first), "saying", "two-part sayings")
        entry["reference"] = f"{first}——{seconds[first]}。"
        yield entry


def _zipped_lines(archive: Path, name: str) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(read_member(archive, f"{_DICTIONARY}/{name}.zip"))) as inner:
        lines = inner.read(f"{name}.txt").decode("utf-8").split("\n")
    return [line.rstrip("\r") for line in lines if "\t" in line]


def _form(forms: tuple[str, ...], text: str) -> str:
    return forms[int(_digest(text), 16) % len(forms)].format(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
