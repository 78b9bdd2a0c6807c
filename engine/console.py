"""How results look in a terminal: JSON, tables, lists, coloured tokens, errors. What they mean is in reports.py."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.decode.events import EMITTED, MARKS, Round
from engine.decode.text import TextStream
from engine.errors import DraftbenchError
from engine.fileio import finite
from engine.numbers import interval as interval  # of every table that is printed here

_PIPED_WIDTH = 160  # columns where nobody says: a table cut for a screen would break `| grep`


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if "COLUMNS" in os.environ or stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width)


out = _console(stderr=False)
err = _console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output; numbers that are not numbers become null."""
    print(json.dumps(finite(value), indent=2, ensure_ascii=False, default=str))


def print_error(error: DraftbenchError) -> None:
    """What, why and fix on standard error, a line each."""
    err.print(f"[bold red]error:[/] {escape(harmless(error.what))}")
    for name, text in (("why", error.why), ("fix", error.fix)):
        if text:
            err.print(f"  [bold]{name}:[/] {escape(harmless(text))}")


def line(text: str) -> None:
    """Some text as it is, never broken: a path in it can be copied."""
    out.print(harmless(text), markup=False)


def harmless(text: str) -> str:
    """Control characters as pictures: a token or a prompt may not steer the terminal."""
    return "".join(c if c >= " " or c in "\n\t" else chr(0x2400 + ord(c)) for c in text).replace("\x7f", "\u2421")


def paragraph(text: str, indent: int = 0) -> None:
    """Some text, broken between words to the width of the terminal."""
    out.print(Padding(Text(harmless(text)), (0, 0, 0, indent), expand=False), soft_wrap=False)


def entries(items: Iterable[tuple[str, str]]) -> None:
    """A heading and what is to say about it, item by item: a table for long texts."""
    for heading, text in items:
        out.print(f"[bold]{escape(harmless(heading))}[/]")
        if text:
            paragraph(text, indent=4)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain table under its title; numbers to the right, the first column broken last."""
    if title:
        line(title)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(columns))
    listed = [list(row) for row in rows]
    for index, column in enumerate(columns):
        cells = [row[index] for row in listed]
        numeric = bool(cells) and all(isinstance(cell, (int, float)) or cell in ("", "-") for cell in cells)
        fits = index == 0 and all(len(str(cell)) <= out.width // 2 for cell in cells)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=fits)
    for row in listed:
        made.add_row(*(cell if isinstance(cell, Text) else escape(harmless(str(cell))) for cell in row))
    out.print(made, soft_wrap=False)


def rate(numbers: dict[str, Any]) -> str:
    """As `interval`, without the zero before the point: '.412 [.390, .433]' leaves room for a table of three."""
    return re.sub(r"\b0\.", ".", interval(numbers))


def coloured(rounds: Iterable[Round], tokenizer: Any, *, refused: bool) -> Iterable[Text]:
    """Readable text of each round as it comes, styled by fate; refused tokens only if asked for."""
    stream = TextStream(tokenizer)
    for r in rounds:
        text = Text()
        for token, piece in zip(r.tokens, stream.read(r), strict=True):
            if refused or token.fate in EMITTED:
                text.append(harmless(piece.text), style=MARKS[token.fate].terminal)
        yield text


def legend() -> Text:
    """The fates and how each is marked."""
    text = Text()
    for fate, mark in MARKS.items():
        text.append(f" {fate} ", style=mark.terminal)
        text.append(f" {mark.meaning}\n")
    return text


def flush() -> None:
    """Everything printed so far reaches the reader, also through a pipe."""
    sys.stdout.flush()
