"""A benchmark's JSON: the rows that were measured, the machine, and whether anything else ran on it meanwhile."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from benchmarks.speed.pairs import Paired
from engine.records.interval import Interval
from engine.runs import provenance

SCHEMA = 1
DISTURBED = 0.05  # share of the processors that other programs took; beyond it a figure is marked


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Part):
    """A number of a row. `low` and `high`: its 95% interval, None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None  # rounds, or prompts
    unit: str = ""

    @staticmethod
    def of(interval: Interval, unit: str = "") -> Figure:
        low, high = (None if math.isnan(x) else x for x in (interval.low, interval.high))
        return Figure(value=interval.value, low=low, high=high, n=interval.n_prompts, unit=unit)


class Company(_Part):
    """What else used the machine while a row was measured, as shares of all its processors."""

    others: float  # time of other programs
    stolen: float  # time that the hypervisor gave to other machines

    @property
    def disturbed(self) -> bool:
        return self.others + self.stolen > DISTURBED


class Row(_Part):
    """One comparison. `figures`: rates by way, ratios as 'way/other', and what else was measured."""

    name: str
    title: str
    conditions: dict[str, Any]
    unit: str
    samples: dict[str, list[tuple[float, float]]]  # way -> amount and seconds of each round
    figures: dict[str, Figure]
    notes: list[str] = []
    seconds: float = 0.0  # the row took, preparation included
    company: Company | None = None


class Report(_Part):
    """One run of a benchmark script."""

    schema_: int = SCHEMA
    script: str
    arguments: list[str]
    began: str  # UTC, ISO 8601
    device: str  # cpu, cuda, or tiny: a trial whose figures mean nothing
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    changed: bool | None  # whether the source tree differs from the commit
    load_before: float  # load average over a minute
    load_after: float | None = None
    rows: list[Row] = []
    skipped: dict[str, str] = {}  # row -> why it was not measured


def begin(script: str, arguments: list[str], device: str) -> Report:
    """A report without rows, of this machine and this commit."""
    source, memory = provenance.source(), psutil.virtual_memory().total
    return Report(
        script=script,
        arguments=[Path(a).name if Path(a).is_absolute() else a for a in arguments],  # a page shows no one's folders
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        machine={**provenance.machine().model_dump(exclude_none=True), "memory_gib": round(memory / 2**30, 1)},
        versions=provenance.versions(),
        commit=source.commit,
        changed=source.changed,
        load_before=os.getloadavg()[0],
    )


def read(path: Path) -> Report:
    """A report from its file. Raises ValueError for another schema or a damaged file."""
    return Report.model_validate_json(path.read_text(encoding="utf-8"))


def row_of(
    name: str, title: str, paired: Paired, ratios: Mapping[str, tuple[str, str]], conditions: Mapping[str, Any]
) -> Row:
    """A row with the rate of each way and the ratios asked for: figure name -> way, over.

    Raises ValueError if a way did nothing or took no time.
    """
    for way, listed in paired.samples.items():
        if not sum(s.amount for s in listed) > 0 or not sum(s.seconds for s in listed) > 0:
            raise ValueError(f"{name}: {way} did nothing that could be timed")
    figures = {way: Figure.of(paired.rate(way), f"{paired.unit}/s") for way in paired.samples}
    figures |= {figure: Figure.of(paired.ratio(way, over), "x") for figure, (way, over) in ratios.items()}
    samples = {way: [(s.amount, s.seconds) for s in listed] for way, listed in paired.samples.items()}
    return Row(name=name, title=title, conditions=dict(conditions), unit=paired.unit, samples=samples, figures=figures)


def pairs_of(*names: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Ratios by their usual names: 'way/other'."""
    return {f"{way}/{over}": (way, over) for way, over in names}


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Fill in `seconds` and `company` at the end: what this process and its children did not do, others did."""
    seen: dict[str, Any] = {}
    before, own, began = psutil.cpu_times(), _own_seconds(), time.perf_counter()
    yield seen
    after, seconds = psutil.cpu_times(), time.perf_counter() - began
    whole = seconds * (psutil.cpu_count() or 1)
    busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "system"))
    stolen = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
    others = max(0.0, busy - (_own_seconds() - own)) / whole
    seen.update(seconds=round(seconds, 2), company=Company(others=round(others, 4), stolen=round(stolen / whole, 4)))


def _own_seconds() -> float:
    """Processor seconds of this process, of its living children and of those it has waited for."""
    me = psutil.Process()
    times = me.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in me.children(recursive=True):
        try:
            part = child.cpu_times()
        except psutil.Error:
            continue
        total += part.user + part.system
    return total


def busy_share(seconds: float = 2.0) -> float:
    """Share of the processors in use while this process only waits."""
    return float(psutil.cpu_percent(interval=seconds)) / 100
