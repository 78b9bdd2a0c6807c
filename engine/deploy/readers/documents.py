"""Files of a server's figures as JSON objects or as text: JSON, JSON lines, a streamed answer, anything else.

Strangers wrote them, so they are bounded and strict. What is torn is refused, with its line: figures of half the
requests would look like figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.deploy.readers.reading import Located, refused
from engine.errors import DraftbenchError
from engine.fileio import read_bounded, whole_characters
from engine.untrusted import json_text
from engine.untrusted.regular_files import printable, require_regular

MOST_BYTES = 64_000_000  # of a file
MOST_RECORDS = 200_000  # of all files
_STREAM = "data:"  # begins a line of a streamed answer
_STREAM_END = "[DONE]"


@dataclass(frozen=True)
class Document:
    """A file. `objects`: its JSON objects with their places; None for a text that is no JSON."""

    name: str
    raw: bytes
    text: str
    objects: list[Located] | None


def read_document(path: Path) -> Document:
    """Read a file. Raises DraftbenchError if it is empty, too large, torn, or no text."""
    name = printable(path.name)
    require_regular(path, MOST_BYTES)
    try:
        raw = read_bounded(path, MOST_BYTES)
    except FileNotFoundError:
        raise DraftbenchError(f"there is no file {printable(path)}", "", "check the path") from None
    return document(name, raw)


def document(name: str, raw: bytes) -> Document:
    """The document in some bytes; `name` for messages."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(
            f"{name} is not UTF-8 text (byte {error.start})", "figures of a server are text", "save them as UTF-8"
        ) from None
    if not text.strip():
        raise refused(f"{name} is empty", "there are no figures in it")
    return Document(name, raw, text, _objects(name, text))


def _objects(name: str, text: str) -> list[Located] | None:
    start = text.lstrip()
    if start.startswith(_STREAM):
        chunks = list(_streamed(name, text))
        if not chunks:
            raise refused(f"{name} is a stream without data", "there are no figures in it")
        return chunks
    if start[0] not in "{[":
        return None
    try:
        value = json_text.loads(text)
    except ValueError as error:
        return list(_lines(name, text, str(error)))
    return [Located(item, where) for item, where in _items(value, name)]


def _items(value: Any, name: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The objects of a JSON value: itself, or each item of a list."""
    if isinstance(value, Mapping):
        yield _usable(value, name), name
        return
    if not value:
        raise refused(f"{name} is an empty list", "there are no figures in it")
    if len(value) > MOST_RECORDS:
        raise refused(f"{name} has {len(value):,} records", f"at most {MOST_RECORDS:,} are read", "give a part of them")
    for number, item in enumerate(value, 1):
        where = f"{name}, record {number}"
        if not isinstance(item, Mapping):
            raise refused(f"{where} is not a JSON object", "a record of figures is one")
        yield _usable(item, where), where


def _lines(name: str, text: str, whole_error: str) -> Iterator[Located]:
    """JSON lines. Raises DraftbenchError for the first that is not a JSON object."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) < 2 or not _is_object(lines[0][1]):
        raise refused(f"{name} {whole_error}", "the file is cut off, or is not JSON")
    if len(lines) > MOST_RECORDS:
        raise refused(f"{name} has {len(lines):,} lines", f"at most {MOST_RECORDS:,} are read", "give a part of them")
    for number, line in lines:
        yield _located(line, f"{name}, line {number}")


def _streamed(name: str, text: str) -> Iterator[Located]:
    """The chunks of streamed answers, as they were sent."""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip().removeprefix(_STREAM).strip()
        if not content or content == _STREAM_END or line.lstrip().startswith((":", "event:", "id:", "retry:")):
            continue
        yield _located(content, f"{name}, line {number}")


def _located(line: str, where: str) -> Located:
    try:
        value = json_text.loads(line)
    except ValueError as error:
        raise refused(f"{where} {error}", "the file is torn there: figures of a part would look like all") from None
    if not isinstance(value, Mapping):
        raise refused(f"{where} is not a JSON object", "a record of figures is one")
    return Located(_usable(value, where), where)


def _usable(value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if json_text.too_deep(value):
        raise refused(f"{where} is nested too deeply", "no server writes such figures")
    whole: Mapping[str, Any] = whole_characters(value)
    return whole


def _is_object(line: str) -> bool:
    try:
        return isinstance(json_text.loads(line), Mapping)
    except ValueError:
        return False
