"""A draft on a server as text: seconds of a round, and what to expect of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.catalogue import SERVERS
from engine.cli.text import console
from engine.measure import step_words
from engine.numbers import MISSING, interval, ratio
from engine.records.interval import Interval
from engine.records.step_times import Seconds, StepTimes

if TYPE_CHECKING:
    from engine.deploy.expected import CellChoice, Expectations, Expected


def step_times(run_id: str, times: StepTimes) -> None:
    """Print a row per batch size, context and gamma, and where the times were measured."""
    console.line(run_id)
    rows = [
        [cell.context, cell.batch_size, r.gamma, *map(_ms, (r.draft_s, r.verify_s, r.overhead_s, r.round_s))]
        for cell in times.cells
        for r in cell.rounds
    ]
    columns = ["context", "batch", "gamma", "draft ms", "verify ms", "rest ms", "round ms"]
    console.table("milliseconds of a round, median of the turns [95% interval]; gamma 0 is a plain step", columns, rows)
    console.paragraph(step_words.true_of(times))


def expected(expectations: Expectations, *, in_full: bool) -> None:
    """Print a row per server, rule and temperature, and what each answer says; `in_full`: every flag and schedule."""
    console.line(expectations.run_id)
    gammas = sorted({row.gamma for row in expectations.rows})
    title = f"what servers will report at gamma {', '.join(map(str, gammas))}, and whether the draft is worth it"
    columns = ["server", "T", "proposals", "accepted / proposed", "tokens per round", "speed-up", "answer"]
    console.table(title, columns, map(_row, expectations.rows))
    for sentence, rows in _by_sentence(expectations.rows).items():
        console.paragraph(f"{_names(rows)}: {sentence}", indent=2)
    named = {SERVERS[row.server].title: row.rate_name for row in expectations.rows if row.rate_name}
    if named:
        console.paragraph(
            "accepted / proposed is " + ", ".join(f"{server}'s {rate}" for server, rate in named.items()), indent=2
        )
    console.paragraph(
        "tokens per round is 1 + accepted / rounds, as servers count; an answer may end within a round, which the "
        "speed-up takes into account",
        indent=2,
    )
    if in_full:
        for row in expectations.rows:
            _detail(row, expectations.schedule_context)
    else:
        console.paragraph(
            "schedule, acceptance by place and the flags to time a server without this draft: --for SERVER", indent=2
        )
    console.line("")
    if expectations.timed_on:
        console.paragraph(f"Times: {expectations.timed_on}")
    for note in expectations.notes:
        console.paragraph(note)


def _row(row: Expected) -> list[object]:
    speedup, answer = (ratio(row.worth.speedup), row.worth.answer) if row.worth else (MISSING, MISSING)
    rates = row.rates
    rule = "either" if row.temperature == 0 else row.proposals
    title = SERVERS[row.server].title
    return [
        title,
        f"{row.temperature:g}",
        rule,
        interval(rates.per_proposed),
        interval(rates.tokens_per_round, 2),
        speedup,
        answer,
    ]


def _by_sentence(rows: Sequence[Expected]) -> dict[str, list[Expected]]:
    """The rows by what is said of them, in their order."""
    by_sentence: dict[str, list[Expected]] = {}
    for row in rows:
        if row.worth:
            by_sentence.setdefault(row.worth.sentence, []).append(row)
    return by_sentence


def _names(rows: Sequence[Expected]) -> str:
    """'vLLM, SGLang at T = 0'."""
    by_temperature: dict[float, list[str]] = {}
    for row in rows:
        by_temperature.setdefault(row.temperature, []).append(_called(row))
    return "; ".join(f"{', '.join(names)} at T = {t:g}" for t, names in by_temperature.items())


def _called(row: Expected) -> str:
    """The server, and its rule where it has two that differ."""
    several = len(SERVERS[row.server].proposals) > 1 and row.temperature > 0
    return SERVERS[row.server].title + (f" ({row.proposals})" if several else "")


def _detail(row: Expected, context: int | None) -> None:
    console.line(f"\n{_called(row)} at T = {row.temperature:g}, gamma {row.gamma}")
    places = ", ".join(interval(place) for place in row.rates.accepted_at)
    console.paragraph(f"share of rounds that accept the first token, the first two, ...: {places}", indent=2)
    if row.schedule:
        _schedule(row, context)
    _flags("to time the server without this draft", row.synthetic.environment, row.synthetic.flags)
    for note in row.synthetic.notes:
        console.paragraph(note, indent=4)


def _schedule(row: Expected, context: int | None) -> None:
    assert row.schedule is not None
    columns = ["context", "batch", "best gamma", "speed-up there", f"at gamma {row.gamma}"]
    console.table(
        "  best gamma by context and batch size, 0 for no draft", columns, [_cell(c, row.gamma) for c in row.cells]
    )
    _flags(f"schedule at context {context}", (), row.schedule.flags)
    for name, text in row.schedule.files.items():
        console.line(f"    {name}: {' '.join(text.split())}")
    for note in row.schedule.notes:
        console.paragraph(note, indent=4)


def _cell(cell: CellChoice, gamma: int) -> list[object]:
    best, speeds = cell.choice.best, {speed.gamma: speed.speedup for speed in cell.choice.by_gamma}
    at_best = ratio(speeds[best]) if best else "1"
    return [cell.context, cell.batch_size, best, at_best, ratio(speeds[gamma]) if gamma in speeds else MISSING]


def _flags(what: str, environment: Sequence[tuple[str, str]], flags: str) -> None:
    """Print what is to be passed on one line each, so that it can be copied."""
    if not environment and not flags:
        return
    console.line(f"  {what}:")
    for line in ([" ".join(f"{key}={value}" for key, value in environment)] if environment else []) + [flags]:
        if line:
            console.line(f"    {line}")


def _ms(seconds: Seconds) -> str:
    return interval(Interval(1000 * seconds.median, 1000 * seconds.low, 1000 * seconds.high), 1)
