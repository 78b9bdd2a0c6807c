"""How results look in a terminal: JSON, tables, lists, coloured tokens, errors. What they mean is in reports.py."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from engine.decode.events import EMITTED, MARKS, Round
from engine.decode.text import TextStream
from engine.errors import DraftbenchError
from engine.fileio import finite
from engine.numbers import interval as interval  # of every table that is printed here
from engine.untrusted.visible import VisibleLog, visible, visible_json

_PIPED_WIDTH = 160  # columns where nobody says: a table cut for a screen would break `| grep`


class _VisibleConsole(Console):
    """A console that no text can steer: whatever is printed, and by whom, passes here.

    Texts whose width matters are made visible before they are laid out (`harmless`).
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if "COLUMNS" in os.environ or stream.isatty() else _PIPED_WIDTH
    return _VisibleConsole(stderr=stderr, highlight=False, soft_wrap=True, width=width)


out = _console(stderr=False)
err = _console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output; numbers that are not numbers become null, hidden characters escapes."""
    print(visible_json(json.dumps(finite(value), indent=2, ensure_ascii=False, default=str)))


def print_document(text: str) -> None:
    """A whole document on standard output, to be kept in a file: not wrapped, nothing added."""
    print(harmless(text), end="")


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
    """Controls and hidden characters as signs: a token or a prompt may not steer the terminal."""
    return visible(text)


def guard_streams() -> None:
    """Make what others print visible too: records of every logger, warnings of libraries, an uncaught error."""
    make = logging.getLogRecordFactory()
    if getattr(make, "makes_visible", False):
        return
    showing = VisibleLog()

    def made(*args: Any, **named: Any) -> logging.LogRecord:
        record = make(*args, **named)
        showing.filter(record)
        return record

    made.makes_visible = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made)
    form = warnings.formatwarning
    warnings.formatwarning = lambda *args, **named: visible(form(*args, **named))
    sys.excepthook = lambda kind, error, trace: print(
        visible("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr
    )


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
        for token in stream.read(r).tokens:
            if refused or token.fate in EMITTED:
                text.append(harmless(token.text), style=MARKS[token.fate].terminal)
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
