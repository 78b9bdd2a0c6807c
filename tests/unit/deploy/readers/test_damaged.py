"""Each value of each recorded answer in turn replaced by what no server writes: refused, or read right.

Right is what the whole answer says, or unknown. Each may take a second, all together 200 MB.
"""

from __future__ import annotations

import copy
import json
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.deploy.importing import Stated, measurement_of
from engine.deploy.readers.documents import document
from engine.deploy.readers.forms import read_documents
from engine.deploy.readers.reading import Reading
from engine.errors import DraftbenchError
from tests.unit.deploy.readers import recorded

_STEPS = {"per_step_accepted": [3, 3, 3, 1] + [0] * 39, "per_step_drafted": [3] * 43}
_SPECULATED = recorded.VLLM["metrics"]["speculative_decoding"] | _STEPS
ANSWERS: dict[str, Any] = {
    "vllm": recorded.changed(recorded.VLLM, "metrics.speculative_decoding", _SPECULATED),
    "vllm-bench": recorded.VLLM_BENCH,
    "sglang": recorded.SGLANG,
    "llama.cpp": recorded.LLAMA_CPP | {"generation_settings": {"temperature": 0.0}},
    "tensorrt-llm": recorded.TENSORRT,
    "iterations": recorded.TENSORRT_ITERATIONS,
    "lm-studio": recorded.LM_STUDIO,
    "lm-studio-sdk": recorded.LM_STUDIO_SDK,
    "aiperf": recorded.AIPERF,
}
TEXTS = {"scrape": recorded.vllm_scrape(400, [210, 110, 50]), "log": recorded.LLAMA_LOG}
ODD = (
    *("null", "[]", "{}", '"x"', "-1", "1e999", "1e15", "1e300", str(10**30), str(10**400), "9" * 5000),
    *("true", "[[]]", "[null]", "[" * 150 + "]" * 150, '{"' + "0" * 9 + "9" * 5000 + '": 1}', '{"٣": 1}'),
)
ODD_WORDS = ("", "x", "-1", "1e999", "9" * 5000, "0" * 9 + "9" * 5000, "1.2.3", "NaN", "٣", "[]")
_MOST_BYTES, _MOST_SECONDS = 200_000_000, 1.0
_MARK = "the value that is replaced"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No more memory than the limit: what wants more fails here and not the machine."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the size of a process is read from /proc")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*before, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*before, key))


def damaged(value: Any) -> Iterator[tuple[str, str]]:
    """What was replaced by what, and the JSON."""
    for path in places(value):
        changed = copy.deepcopy(value)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = _MARK
        text = json.dumps(changed)
        for odd in ODD:
            yield f"{'.'.join(map(str, path))}: {odd[:20]}", text.replace(json.dumps(_MARK), odd)


def damaged_text(text: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"[0-9.]*[0-9]", text):
        for odd in ODD_WORDS:
            yield f"{match[0]} at {match.start()}: {odd[:20]}", text[: match.start()] + odd + text[match.end() :]


def is_right(reading: Reading, whole: Reading) -> bool:
    """Whether all counts are those of the whole answer or unknown; fewer only where it is said."""
    if any("left out" in note for note in reading.notes):
        return all((mine or 0) <= (its or 0) for mine, its in _counts(reading, whole))
    return all(mine in (None, its) for mine, its in _counts(reading, whole))


def _counts(reading: Reading, whole: Reading) -> Iterator[tuple[Any, Any]]:
    for name in ("requests", "rounds", "proposed", "accepted", "emitted"):
        yield getattr(reading.totals, name), getattr(whole.totals, name)
    yield from zip(reading.totals.accepted_at or [], whole.totals.accepted_at or [], strict=False)
    yield reading.gamma, whole.gamma
    yield reading.temperature, whole.temperature


def check(name: str, raw: bytes, whole: Reading) -> bool:
    """Whether it was read; raises whatever is no DraftbenchError."""
    began = time.perf_counter()
    try:
        reading, form = read_documents([document("figures", raw)])
        measurement_of(reading, form, Stated())
        assert is_right(reading, whole), f"{name}: {reading}"
    except DraftbenchError as error:
        if isinstance(error.__cause__, Exception):  # the boundary, which is for what no reader expects
            raise error.__cause__ from None
        return False
    finally:
        assert time.perf_counter() - began < _MOST_SECONDS, name
    return True


@pytest.mark.parametrize("name", ANSWERS)
def test_a_damaged_answer_is_refused_or_read_right(name: str):
    whole, _ = read_documents([document("figures", json.dumps(ANSWERS[name]).encode())])
    outcomes = {what: check(what, text.encode(), whole) for what, text in damaged(ANSWERS[name])}
    assert set(outcomes.values()) == {True, False}  # some values are not read


@pytest.mark.parametrize("name", TEXTS)
def test_a_damaged_text_is_refused_or_read_right(name: str):
    whole, _ = read_documents([document("figures", TEXTS[name].encode())])
    outcomes = {what: check(what, text.encode(), whole) for what, text in damaged_text(TEXTS[name])}
    assert set(outcomes.values()) == {True, False}


def test_what_a_reader_does_not_expect_is_refused_all_the_same(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("engine.deploy.readers.llama_cpp.read_text", broken)
    with pytest.raises(DraftbenchError, match=r"server\.log cannot be read") as error:
        read_documents([document("server.log", recorded.LLAMA_LOG.encode())])
    assert "KeyError" in error.value.why
