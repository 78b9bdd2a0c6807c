"""A draft on a real server, beside what was predicted, as text."""

from __future__ import annotations

from engine.cli.text import console
from engine.numbers import is_number, number
from engine.records.parity import ParityReport, ParityRow


def report(parity: ParityReport) -> None:
    """Print a row per temperature and rule, by place, the speed, then what each row says."""
    gamma, limit = parity.num_draft_tokens, parity.limit
    console.line(f"{parity.server} {parity.version}, gamma {gamma}, {limit} tokens an answer, {parity.dtype}")
    console.line(f"prompts: {parity.prompts_from}")
    columns = ["T", "proposals", "prompts", "predicted", "served", "served less predicted", "recount", "as predicted"]
    console.table("accepted over proposed tokens", columns, [_rates(row) for row in parity.rows])
    places = [f"place {place + 1}" for place in range(gamma)]
    console.table(
        "accepted by place, share of rounds: predicted, then served",
        ["T", "proposals", *places, "tokens a round"],
        [cells for row in parity.rows for cells in _places(row)],
    )
    timed = [row for row in parity.rows if row.speedup is not None]
    if timed:
        console.table(
            "tokens a second after the first, one request at a time",
            ["T", "proposals", "with draft", "without", "speed-up", "predicted here"],
            [_speed(row) for row in timed],
        )
    for row in parity.rows:
        console.paragraph(f"T={row.temperature:g}, {row.proposals}: {row.verdict}")
    console.line(
        f"chat route: {parity.chat_same} of {parity.chat_asked} conversations become the token ids that the draft was "
        "measured on"
    )
    for note in parity.notes:
        console.paragraph(f"note  {note}")


def _rates(row: ParityRow) -> list[str]:
    recount = number(row.recounted) if is_number(row.recounted) else "-"
    return [
        f"{row.temperature:g}",
        row.proposals,
        str(row.prompts),
        console.rate(row.predicted),
        console.rate(row.served),
        console.rate(row.difference),
        recount,
        {True: "yes", False: "NO", None: "-"}[row.agrees],
    ]


def _places(row: ParityRow) -> list[list[str]]:
    start = [f"{row.temperature:g}", row.proposals]
    sides = ((row.predicted_at, row.predicted_tokens_per_round), (row.served_at, row.served_tokens_per_round))
    return [[*start, *(console.rate(at) for at in places), console.rate(tokens)] for places, tokens in sides]


def _speed(row: ParityRow) -> list[str]:
    return [
        f"{row.temperature:g}",
        row.proposals,
        *(console.rate(value) if value else "-" for value in (row.tokens_per_s, row.plain_tokens_per_s, row.speedup)),
        number(row.predicted_speedup, 2),
    ]
