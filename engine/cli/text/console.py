"""What every command prints with: JSON, tables, lists, coloured tokens and errors, made safe for a terminal."""

from __future__ import annotations

import codecs
import io
import itertools
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from engine.decode.events import EMITTED, MARKS, Round
from engine.decode.text import TextStream
from engine.errors import DraftbenchError
from engine.fileio import finite
from engine.numbers import Estimate
from engine.numbers import interval as interval  # of every table that is printed here
from engine.untrusted.visible import VisibleLog, visible, visible_json

_PIPED_WIDTH = 160  # columns without a terminal: a table cut to a screen would break `| grep`


class _VisibleConsole(Console):
    """A console that no text can steer: it makes control characters in whatever is printed visible.

    Text whose width matters is made visible before it is laid out (`harmless`).
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
    """Print one JSON document; NaN and infinity become null, hidden characters become escapes.

    So does every character outside ASCII where standard output is not UTF-8.
    """
    text = json.dumps(finite(value), indent=2, ensure_ascii=not _is_utf8(sys.stdout), default=str)
    print(visible_json(text))


def _is_utf8(stream: TextIO) -> bool:
    encoding = getattr(stream, "encoding", None)  # None of a stream that keeps text, not bytes
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def print_document(text: str) -> None:
    """Print a whole document, meant for a file: not wrapped, nothing added."""
    print(harmless(text), end="")


def print_error(error: DraftbenchError) -> None:
    """Print what, why and fix on standard error, one line each."""
    err.print(f"[bold red]error:[/] {escape(harmless(error.what))}")
    for name, text in (("why", error.why), ("fix", error.fix)):
        if text:
            err.print(f"  [bold]{name}:[/] {escape(harmless(text))}")


def line(text: str) -> None:
    """Print text without breaking lines, so that a path in it can be copied."""
    out.print(harmless(text), markup=False)


def harmless(text: str) -> str:
    """Replace control and hidden characters by visible signs, so that no token or prompt steers the terminal."""
    return visible(text)


def guard_streams() -> None:
    """Make what others print safe too: log records, warnings of libraries, an uncaught error.

    A character that the terminal's encoding lacks is printed as an escape, where it would end the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _is_utf8(stream):
            stream.reconfigure(errors="backslashreplace")
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "makes_visible", False):
        return
    visible_log = VisibleLog()

    def visible_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        visible_log.filter(record)
        return record

    visible_record.makes_visible = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(visible_record)
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: visible(format_warning(*args, **kwargs))
    sys.excepthook = lambda kind, error, trace: print(
        visible("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr
    )


def paragraph(text: str, indent: int = 0) -> None:
    """Print text wrapped between words to the width of the terminal; a longer id or path stays whole."""
    out.print(Text(_wrapped(harmless(text), indent)))


def _wrapped(text: str, indent: int) -> str:
    """Text in lines of the terminal's width. Rich breaks every longer word; here only those of other scripts are."""
    width = max(1, out.width - indent)
    lines = []
    for whole in text.expandtabs().split("\n"):
        begun = ""
        for word in re.findall(r"\s*\S+", whole):
            if cell_len(begun + word) > width:
                lines += [begun] if begun else []
                begun, word = "", word.lstrip()
            if cell_len(word) > width and not word.isascii():
                *full, word = [part.plain for part in Text(word).wrap(out, width)]
                lines += full
            begun += word
        lines.append(begun)
    return "\n".join(" " * indent + one for one in lines)


def entries(items: Iterable[tuple[str, str]]) -> None:
    """Print headings, each with its text below: a table for long texts."""
    for heading, text in items:
        out.print(f"[bold]{escape(harmless(heading))}[/]")
        if text:
            paragraph(text, indent=4)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a plain table under its title: numbers right-aligned, ids in the first column never broken."""
    if title:
        line(title)
    lists = [list(row) for row in rows]
    numeric = [_numeric([row[index] for row in lists]) for index in range(len(columns))]
    styled = any(isinstance(cell, Text) or "\t" in str(cell) for row in lists for cell in row)
    lines = [] if styled else aligned([columns, *lists], numeric)
    wide = any(cell_len(text) > out.width for text in lines)
    if wide and any(cell_len(word) > out.width // 2 for row in lists for word in str(row[0]).split()):
        _print_below_ids(columns, lists, numeric)
        return
    if styled or wide:
        _print_wrapped(columns, lists, numeric)
        return
    heading, *body = lines
    if any(columns):
        out.print(Text(heading, style="bold"))
    if body:
        out.print(Text("\n".join(body)))


def aligned(rows: Sequence[Sequence[Any]], numeric: Sequence[bool]) -> list[str]:
    """Rows as lines of text with columns of one width, two blanks apart, where nothing has to be wrapped.

    It writes what Rich's tables write, in a tenth of the time: a list of runs is mostly that. A cell may have lines.
    """
    return list(itertools.chain.from_iterable(_aligned_rows(rows, numeric)))


def _aligned_rows(rows: Sequence[Sequence[Any]], numeric: Sequence[bool]) -> list[list[str]]:
    """The lines of each row."""
    cells = [[harmless(str(cell)).split("\n") for cell in row] for row in rows]
    widths = [max((cell_len(part) for row in cells for part in row[index]), default=0) for index in range(len(numeric))]
    lines: list[list[str]] = []
    for row in cells:
        lines.append([])
        for parts in itertools.zip_longest(*row, fillvalue=""):
            blanks = [" " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True)]
            padded = [b + part if right else part + b for part, b, right in zip(parts, blanks, numeric, strict=True)]
            lines[-1].append("  ".join(padded).rstrip())
    return lines


def _numeric(cells: Sequence[Any]) -> bool:
    return bool(cells) and all(isinstance(cell, (int, float)) or cell in ("", "-") for cell in cells)


def _print_below_ids(columns: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[bool]) -> None:
    """Print each row below its first cell, which is longer than half the terminal and has a line of its own."""
    heading, *below = _aligned_rows([columns[1:], *(row[1:] for row in rows)], numeric[1:])
    parts = [(columns[0], heading, "bold"), *((row[0], text, "") for row, text in zip(rows, below, strict=True))]
    for first, text, style in parts:
        out.print(Text("\n".join([harmless(str(first)), *(_wrapped(one, indent=2) for one in text)]), style=style))


def _print_wrapped(columns: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[bool]) -> None:
    """Print a table that is wider than the terminal, or has styled cells: Rich wraps them."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        fits = index == 0 and all(len(str(row[index])) <= out.width // 2 for row in rows)
        grid.add_column(column, justify="right" if numeric[index] else "left", overflow="fold", no_wrap=fits)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else escape(harmless(str(cell))) for cell in row))
    out.print(grid, soft_wrap=False)


def rate(estimate: Estimate) -> str:
    """Format like `interval` without the leading zero: three of '.412 [.390, .433]' fit side by side."""
    return re.sub(r"\b0\.", ".", interval(estimate))


def coloured(rounds: Iterable[Round], tokenizer: Any, *, refused: bool, styled: bool = True) -> Iterable[Text]:
    """Yield the text of each round as it arrives, styled by fate; refused tokens only if `refused` is set.

    Where there are no styles (`styled`), a round's refused tokens stand in [-marks-], or they would read as part of the
    answer. Plain decoding proposes nothing, so its text has no marks.
    """
    stream = TextStream(tokenizer)
    for r in rounds:
        text = Text()
        for emitted, tokens in itertools.groupby(stream.read(r).tokens, lambda token: token.fate in EMITTED):
            if not (emitted or refused):
                continue
            marks = ("", "") if emitted or styled else ("[-", "-]")
            text.append(marks[0])
            for token in tokens:
                text.append(harmless(token.text), style=MARKS[token.fate].terminal if r.num_draft_tokens else "")
            text.append(marks[1])
        yield text


def legend() -> Text:
    """The five fates, each in its own style with its meaning."""
    text = Text()
    for fate, mark in MARKS.items():
        text.append(f" {fate} ", style=mark.terminal)
        text.append(f" {mark.meaning}\n")
    return text


def shortened(text: str, characters: int) -> str:
    """The beginning of a text on one line, at most `characters` long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"


def flush() -> None:
    """Send everything printed so far to the reader, also through a pipe."""
    sys.stdout.flush()
