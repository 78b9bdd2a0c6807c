"""Read the rows of each kind of prompt file, one after the other.

Every reader yields `Row`s: a record, or the reason why there is none at that place. What makes the whole file unusable
(its encoding, its columns, a broken array) is a DraftbenchError. A new format is one function and one line in
`FILE_READERS`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from engine.config.schema import PromptSource
from engine.data.columns import head, named_columns, no_such_column
from engine.data.records import BadRecordError, bad_records, plain
from engine.errors import DraftbenchError, boundary, did_you_mean, first_line
from engine.untrusted import json_text
from engine.untrusted.regular_files import read_text, require_regular

if TYPE_CHECKING:
    import datasets

Record = dict[str, Any]  # a row of a file: column -> value

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_BATCH_ROWS = 32
# A larger file is no list of prompts, and reading it would only take time and memory.
MAX_FILE_BYTES = 8 * 1024**3
_MAX_ARRAY_BYTES = 1024**3
_MAX_LINE_BYTES = 16 * 1024**2
_MAX_SKIPPED_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Row:
    """A record of a file, or the problem in its place."""

    line: int
    """From 1: the line at which the record starts in text formats (JSON lines, CSV), the row number in others."""
    record: Record | None
    problem: str = ""
    others: tuple[str, ...] = ()
    """Columns of a table that were not loaded."""


def read_jsonl(path: Path, source: PromptSource) -> Iterator[Row]:
    """Read JSON lines as a stream. Blank lines are skipped; a half-written line is a row with a problem."""
    require_regular(path, MAX_FILE_BYTES, source.path)
    with open(path, "rb") as file:
        for number, raw in enumerate(_lines(file, source), 1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if len(line) > _MAX_LINE_BYTES:
                yield Row(number, None, f"the line is longer than {_MAX_LINE_BYTES:,} bytes")
            elif line.strip():
                yield _row_of_line(number, line, source)


def _lines(file: BinaryIO, source: PromptSource) -> Iterator[bytes]:
    """The lines of a file; only the beginning of a line that is too long is kept in memory."""
    while line := file.readline(_MAX_LINE_BYTES + 1):
        dropped = 0
        while line[-1:] != b"\n" and len(line) > _MAX_LINE_BYTES and (more := file.readline(_MAX_LINE_BYTES)):
            dropped += len(more)
            if dropped > _MAX_SKIPPED_BYTES:
                raise DraftbenchError(
                    f"{source.path} has a line of more than {_MAX_SKIPPED_BYTES:,} bytes",
                    "JSON lines have one record per line; this file is not",
                    "write one record per line, or name the file by its real format",
                )
            if more[-1:] == b"\n":
                break
        yield line


def _row_of_line(number: int, line: bytes, source: PromptSource) -> Row:
    try:
        value, spoilt = json_text.loads_leniently(line)
    except UnicodeDecodeError as error:
        # A kill in the middle of a character is a torn line; any other bad byte is another encoding.
        if error.reason != "unexpected end of data":
            raise _not_utf8(source.path, f"line {number}") from None
        return Row(number, None, "the line breaks off inside a character")
    except ValueError as error:
        return Row(number, None, str(error))
    return _row_of_value(number, value, spoilt=bool(spoilt))


def _row_of_value(number: int, value: Any, *, spoilt: bool) -> Row:
    """The record of a line or of an item. `spoilt`: a part of the file must not be used, perhaps of this value."""
    reason = json_text.reason_in(value) if spoilt else ""
    if not reason and isinstance(value, dict):
        reason = "is nested too deeply" if json_text.too_deep(value) else ""
        return Row(number, None, reason) if reason else Row(number, value)
    return Row(number, None, reason or f"a record must be a JSON object, not {json.dumps(value)[:40]}")


def read_json(path: Path, source: PromptSource) -> Iterator[Row]:
    """Read a JSON array of records, or an object in which exactly one value is an array of them."""
    try:
        text = read_text(path, _MAX_ARRAY_BYTES, source.path)
        value, spoilt = json_text.loads_leniently(text) if text.strip() else ([], [])
    except ValueError as error:
        raise DraftbenchError(
            f"{source.path} {error}",
            "an array can only be read whole",
            "correct the file, or name it .jsonl if it holds one record per line",
        ) from None
    for number, item in enumerate(_array_of_records(value, source), 1):
        yield _row_of_value(number, item, spoilt=bool(spoilt))


def _array_of_records(value: Any, source: PromptSource) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, json_text.Spoilt):
        raise DraftbenchError(
            f"{source.path} {value.reason}", "it cannot be known which part is meant", "correct the file"
        )
    arrays = (
        {name: inner for name, inner in value.items() if isinstance(inner, list)} if isinstance(value, dict) else {}
    )
    # A lone record looks like an object with one array: its messages.
    if len(arrays) == 1 and not arrays.keys() & {source.messages_column, source.tools_column}:
        return next(iter(arrays.values()))
    content = f"an object with {len(arrays)} arrays ({', '.join(arrays)})" if arrays else "no array"
    raise DraftbenchError(
        f"{source.path} is not an array of records: it holds {content}",
        "it cannot be known which part holds the prompts",
        "give an array of records, or an object with one array of records",
    )


def read_csv(path: Path, source: PromptSource) -> Iterator[Row]:
    """Read comma-separated records under a header; quoted fields may span lines."""
    require_regular(path, MAX_FILE_BYTES, source.path)
    csv.field_size_limit(_MAX_LINE_BYTES)  # Python's own limit is shorter than long prompts
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_text_lines(file), strict=True)
        starts_at = 1
        try:
            header = next(reader, None)
            if header is None:
                return
            require_columns(header, source)
            starts_at = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield _row_of_fields(starts_at, header, fields)
                starts_at = reader.line_num + 1
        except UnicodeDecodeError:
            raise _not_utf8(source.path, f"line {starts_at} or later") from None
        except csv.Error as error:
            raise DraftbenchError(
                f"{source.path} is not valid CSV: the record that starts at line {starts_at}: {error}",
                "from there on it cannot be known where a record ends",
                "close the quotes (a quote inside a field is doubled), or use .jsonl for long fields",
            ) from None


def _text_lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_MAX_LINE_BYTES + 1):
        if len(line) > _MAX_LINE_BYTES:
            raise csv.Error(f"a line is longer than {_MAX_LINE_BYTES:,} characters")
        yield line


def _row_of_fields(line: int, header: list[str], fields: list[str]) -> Row:
    if len(fields) != len(header):
        return Row(line, None, f"has {len(fields)} fields where the header has {len(header)}")
    return Row(line, dict(zip(header, fields, strict=True)))


def read_parquet(path: Path, source: PromptSource) -> Iterator[Row]:
    """Read a Parquet file in batches, and only the columns that a prompt is made of."""
    import pyarrow.parquet as pq

    require_regular(path, MAX_FILE_BYTES, source.path)
    unreadable = boundary(
        f"{source.path} cannot be read as Parquet",
        "write it again, or give the extension that fits its format",
        "the file is damaged or of another format",
    )
    with unreadable, pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = require_columns(names, source)
        others = tuple(name for name in names if name not in columns)
        _refuse_unpacked(file.metadata, columns, source)
        decode = _parquet_decoder(file.schema_arrow, columns)
        batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
        records = (record for batch in batches for record in batch.to_pylist(maps_as_pydicts="strict"))
        for number, record in enumerate(records, 1):
            yield _row_of_arrow(number, record, decode, others)


def _row_of_arrow(number: int, record: Record, decode: Callable[[Record], Record], others: tuple[str, ...]) -> Row:
    try:
        with bad_records():
            return Row(number, plain(decode(record)), others=others)
    except BadRecordError as error:
        return Row(number, None, str(error))


def _refuse_unpacked(metadata: Any, columns: list[str], source: PromptSource) -> None:
    """Refuse a row group whose unpacked size is over the limit: a few bytes can stand for gigabytes."""
    for group in range(metadata.num_row_groups):
        chunks = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
        if size > MAX_FILE_BYTES:
            raise DraftbenchError(
                f"{source.path} unpacks to {size:,} bytes in one group of rows; at most {MAX_FILE_BYTES:,} are read",
                "it would fill the memory",
                "write it in smaller groups of rows",
            )


def _parquet_decoder(schema: Any, columns: list[str]) -> Callable[[Record], Record]:
    """Undo the storage form of Datasets, which writes free-form objects as JSON text inside structs."""
    if b"huggingface" not in (schema.metadata or {}):
        return lambda record: record
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    selected = datasets.Features({name: features[name] for name in columns})
    return lambda record: dict(selected.decode_example(record))


FILE_READERS: dict[str, Callable[[Path, PromptSource], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def read_file(path: Path, source: PromptSource) -> Iterator[Row]:
    """Read a file in the format of its extension. Raises DraftbenchError for an unknown one."""
    reader = FILE_READERS.get(path.suffix.lower())
    if reader is None:
        raise DraftbenchError(
            f"{source.path} has the extension {path.suffix!r}, which is not a known format",
            "the format is taken from the extension and not guessed from the content",
            f"give one of {', '.join(FILE_READERS)}, a Datasets folder, or hub:NAME",
        )
    return reader(path, source)


def read_folder(path: Path, source: PromptSource) -> Iterator[Row]:
    """Read a folder written by `save_to_disk`, or one of data files that `load_dataset` understands."""
    import datasets

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with _datasets_errors(source, "check that the folder is complete, or save it again with save_to_disk"):
            saved = datasets.load_from_disk(str(path))
        return _rows_of_dataset(_split_of(saved, source), source)
    with _datasets_errors(source, "put .jsonl or .parquet files into it, and check `split` and `config`"):
        loaded = datasets.load_dataset(str(path), source.config, split=source.split)
    return _rows_of_dataset(loaded, source)


def unread_of_folder(path: Path, source: PromptSource) -> list[str]:
    """The data files of a folder that `read_folder` would take into no split, as Datasets chooses by name and format.

    A file called train.jsonl, say, makes it leave out all files whose names are of no split.
    """
    import datasets

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return []
    with _datasets_errors(source, "put .jsonl or .parquet files into it, and check `split` and `config`"):
        chosen = datasets.load_dataset_builder(str(path), source.config).config.data_files or {}
    taken = {Path(str(file)).absolute() for files in chosen.values() for file in files}
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in FILE_READERS)
    return [file.relative_to(path).as_posix() for file in files if file.absolute() not in taken]


def unused_of_folder(path: Path) -> tuple[str, ...]:
    """The settings of a source that `read_folder` does not use for this folder."""
    if (path / "dataset_dict.json").exists():
        return ("revision", "config")
    return ("revision", "config", "split") if (path / "state.json").exists() else ("revision",)


def read_hub(name: str, source: PromptSource) -> Iterator[Row]:
    """Read a dataset of the Hugging Face hub."""
    if not _HUB_NAME.fullmatch(name):
        raise DraftbenchError(
            f"{source.path!r} is not the name of a hub dataset",
            "a hub name is NAME or ORG/NAME",
            "for a folder on this machine give its path without 'hub:'",
        )
    if Path(name).is_dir():
        raise DraftbenchError(
            f"{source.path!r} is also a folder here, {Path(name).resolve()}",
            "Datasets would read the folder instead of the hub",
            "give the folder's path without 'hub:', or start from another working folder",
        )
    import datasets

    fix = "check the name, `split`, `config` and the network; without one, download it elsewhere and give the folder"
    with _datasets_errors(source, fix):
        loaded = datasets.load_dataset(name, source.config, split=source.split, revision=source.revision)
    return _rows_of_dataset(loaded, source)


def _split_of(saved: datasets.Dataset | datasets.DatasetDict, source: PromptSource) -> datasets.Dataset:
    """The split that the source names. A Dataset saved on its own has none, so `split` does not apply to it."""
    import datasets

    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if source.split not in saved:
        raise DraftbenchError(
            f"{source.path} has no split {source.split!r}",
            "",
            f"set `split`: {did_you_mean(source.split, saved)}",
        )
    return saved[source.split]


def _rows_of_dataset(dataset: datasets.Dataset, source: PromptSource) -> Iterator[Row]:
    columns = require_columns(dataset.column_names, source)
    others = tuple(name for name in dataset.column_names if name not in columns)
    with _datasets_errors(source, "check that the folder is complete and its columns can be read"):
        for number, record in enumerate(dataset.select_columns(columns), 1):
            yield _row_of_arrow(number, record, dict, others)


def require_columns(present: Iterable[str], source: PromptSource) -> list[str]:
    """Return the present columns that a prompt is made of.

    Raises DraftbenchError if there is no text, a column that was named is missing, or a column is there twice.
    """
    names = list(present)
    if head(source.messages_column, names) is None and head(source.prompt_column, names) is None:
        raise DraftbenchError(
            f"{source.path} has neither a column {source.messages_column!r} nor {source.prompt_column!r}; "
            f"it has: {', '.join(names)}",
            "a prompt is made from one of them",
            "set `messages_column` or `prompt_column` of the source; in CSV the columns are separated by commas",
        )
    for option, column in named_columns(source).items():
        if head(column, names) is None:
            raise no_such_column(source, option, column, names)
    used = [name for path in source.columns() if (name := head(path, names)) is not None]
    duplicate = next((name for name in used if names.count(name) > 1), None)
    if duplicate is not None:
        raise DraftbenchError(
            f"{source.path} has the column {duplicate!r} twice",
            "it cannot be known which one is meant",
            "rename one of them",
        )
    return list(dict.fromkeys(used))


@contextmanager
def _datasets_errors(source: PromptSource, fix: str) -> Iterator[None]:
    """Turn whatever Datasets raises for bad input or a missing network into one error with its cause."""
    try:
        with boundary(f"could not load {source.path}", fix):
            yield
    except DraftbenchError as error:
        below = error.__cause__.__cause__ if error.__cause__ is not None else None
        if below is not None:
            error.why += f" ({first_line(below)})"
        raise


def _not_utf8(path: str, where: str) -> DraftbenchError:
    return DraftbenchError(
        f"{path} is not UTF-8 text ({where})",
        "in another encoding its characters would be read wrongly",
        f"convert it, for example: iconv -f GB18030 -t UTF-8 {path} (with its real encoding)",
    )
