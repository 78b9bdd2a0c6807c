"""Figures of servers that are cut, changed or made up: each is refused in words, or its counts contradict nothing."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.hostile_cases.case import Case
from engine.deploy import verdict as _verdict  # noqa: F401  # loaded before the first case, so that none pays for it
from engine.deploy.importing import Stated, measurement_of
from engine.deploy.measurements import keep, kept_measurements
from engine.deploy.readers.forms import FORMS, read_files
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals
from tests.unit.deploy.readers import recorded

ANSWERS: dict[str, Any] = {
    "vllm": recorded.VLLM,
    "sglang": recorded.SGLANG,
    "llama.cpp": recorded.LLAMA_CPP | {"generation_settings": {"temperature": 0.0}},
    "tensorrt-llm": recorded.TENSORRT,
    "iterations": recorded.TENSORRT_ITERATIONS,
    "lm-studio": recorded.LM_STUDIO,
    "aiperf": recorded.AIPERF,
    "vllm-bench": recorded.VLLM_BENCH,
}
TEXTS = {"scrape": recorded.vllm_scrape(400, [210, 110, 50]), "log": recorded.LLAMA_LOG}
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0.5, 1e400, float("nan"), 2**63, 10**30, "7", "", "\ud800", "\x1b[2J", [], [[]], {}, {"a": 1}),
    *([1] * 100_000, [None] * 43, ["1"] * 43, "9" * 5000, {"9" * 9: 1}, {"0" * 9 + "9" * 5000: 1}),
    *({"-1": 1}, {"\u0663": 1}, 1e15, 10**400),
)
EVERY = 37  # bytes between two cuts


def cases() -> list[Case]:
    """About 2,300 files, those with changes in one place in one case, and damaged measurements in a run's folder."""
    together: dict[str, list[bytes]] = {}
    for name, content in (*_cuts(), *_values()):
        together.setdefault(name, []).append(content)
    cases = [Case(name, partial(_read_each, contents)) for name, contents in together.items()]
    cases += [Case(name, partial(_read, content)) for name, content in (*_texts(), *_files())]
    return cases + list(_stored())


def _read_each(contents: list[bytes], folder: Path) -> None:
    for number, content in enumerate(contents):
        (folder / str(number)).mkdir()
        with contextlib.suppress(DraftbenchError):
            _read(content, folder / str(number))


def _read(content: bytes, folder: Path) -> None:
    path = folder / "figures"
    path.write_bytes(content)
    reading, form = read_files([path])[:2]
    assert form in FORMS
    _sensible(reading.totals)
    measurement = measurement_of(reading, form, Stated(temperature=0.0))
    keep(folder, "one", measurement, [])
    (kept,) = kept_measurements(folder)
    assert kept.measurement is not None, kept.problem
    assert not kept.problem, kept.problem


def _sensible(totals: RoundTotals) -> None:
    counts = [totals.rounds, totals.proposed, totals.accepted, totals.emitted, *(totals.accepted_at or [])]
    assert all(count is None or 0 <= count <= 2**53 for count in counts), totals
    assert totals.accepted is None or totals.proposed is None or totals.accepted <= totals.proposed, totals
    places = totals.accepted_at or []
    assert places == sorted(places, reverse=True), totals


def _cuts() -> Iterator[tuple[str, bytes]]:
    for name, value in ANSWERS.items():
        raw = json.dumps(value).encode()
        for end in range(0, len(raw), EVERY):
            yield f"{name}: cut", raw[:end]
    for name, text in TEXTS.items():
        for end in range(0, len(text), 3 * EVERY):
            yield f"{name}: cut", text[:end].encode()


def _values() -> Iterator[tuple[str, bytes]]:
    """Each number, list and object of each answer in turn, replaced by each odd value."""
    for name, value in ANSWERS.items():
        for path in _paths(value):
            for odd in ODD:
                changed = copy.deepcopy(value)
                inner = changed
                for key in path[:-1]:
                    inner = inner[key]
                inner[path[-1]] = odd
                yield f"{name}: {'.'.join(map(str, path))} is odd", _dumped(changed)


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if (
            isinstance(inner, (int, float, list, dict))
            and "spec" in str((*before, key, inner)) + "draft stats timings temperature"
        ):
            yield (*before, key)
        yield from _paths(inner, (*before, key))


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _texts() -> Iterator[tuple[str, bytes]]:
    scrape = TEXTS["scrape"]
    for odd in ("NaN", "+Inf", "-1", "1e400", "1e30", "0x10", "", "1_0", "9" * 5000, "{", '"'):
        yield f"scrape: a count of {odd[:10]!r}", scrape.replace(" 210.0", f" {odd}").encode()
    for odd in (
        'position="1"',
        'position="999999999999"',
        f'position="{"0" * 9}{"9" * 5000}"',
        'position="-1"',
        'position=""',
        'position="\u0663"',
        "{{{",
    ):
        yield f"scrape: a place of {odd[:40]!r}", scrape.replace('position="2"', odd).encode()
    yield "scrape: a label without an end", scrape.replace('engine="0"', 'engine="0').encode()
    yield "scrape: a label of a megabyte", scrape.replace('engine="0"', f'engine="{"a" * 10**6}"').encode()
    yield "scrape: backslashes", scrape.replace('engine="0"', 'engine="' + "\\\\" * 50_000 + '"').encode()
    yield "scrape: a line of blanks", scrape.encode() + b" " * 10**6
    yield "scrape: half a million series", b"".join(b'vllm:x{a="%d"} 1\n' % i for i in range(500_000))
    yield "log: a line of a megabyte", (TEXTS["log"] + "draft acceptance = 0.1 (" + " " * 10**6).encode()
    yield "log: a rate with two points", TEXTS["log"].replace("0.19718", "0.5.0").encode()
    yield "log: a time with two points", TEXTS["log"].replace("2434.58", "1.2.3").encode()
    yield "log: many digits", TEXTS["log"].replace("   14 accepted", " " + "1" * 4400 + " accepted").encode()


def _files() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "a zero byte", b"\0"
    yield "deep lists", b"[" * 100_000
    yield "deep objects", b'{"metrics":' * 50_000
    yield "a million empty objects", b"{}\n" * 1_000_000
    yield "a long list", b"[" + b"{}," * 300_000 + b"{}]"
    yield "many answers", b"\n".join([_dumped(recorded.LLAMA_CPP)] * 30_000)
    yield "a stream without data", b"data:\n" * 100_000
    yield "utf-16", json.dumps(recorded.VLLM).encode("utf-16")
    yield "a key twice", b'{"timings": {"predicted_n": 1, "predicted_n": 2, "draft_n": 3, "draft_n_accepted": 1}}'


def _stored() -> Iterator[Case]:
    contents: dict[str, bytes] = {
        "empty": b"",
        "torn": b'{"schema": 1, "totals": {"rounds": 4',
        "future": b'{"schema": 99}',
        "a list": b"[]",
        "odd values": b'{"schema": 1, "server": 5, "totals": {"rounds": -1e400, "accepted_at": [{}]}}',
        "huge": b'{"schema": 1, "notes": ["' + b"a" * 20_000_000 + b'"]}',
        "deep": b'{"schema": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    }
    for name, content in contents.items():
        yield Case(f"stored: {name}", partial(_stored_as, content))
    yield Case("stored: a fifo", partial(_in_place, os.mkfifo))
    yield Case("stored: a link to nowhere", partial(_in_place, lambda path: path.symlink_to("nowhere")))
    yield Case("stored: a folder", partial(_in_place, lambda path: path.mkdir()))


def _stored_as(content: bytes, folder: Path) -> None:
    _in_place(lambda path: path.write_bytes(content), folder)


def _in_place(make: Callable[[Path], object], folder: Path) -> None:
    place = folder / "served" / "one"
    place.mkdir(parents=True)
    make(place / "measurement.json")
    (kept,) = kept_measurements(folder)
    assert kept.problem, "damage that is not reported"
