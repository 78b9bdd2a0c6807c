"""Read the header of a GGUF file strictly: every count and length is checked against the file before it is used.

The libraries that read GGUF trust the header, so a file of a few bytes can make them use any amount of time or memory,
and from a truncated file they silently read fewer weights. They get a file only after this module has checked it.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError

_VERSIONS = (2, 3)
_MAX_KEYS, _MAX_TENSORS, _MAX_DIMENSIONS = 4_096, 200_000, 4
_MAX_NAME_BYTES, _MAX_TEXT_BYTES = 65_535, 4_000_000
_MAX_ELEMENTS = 1_500_000  # of all lists: a vocabulary of 262,144 with its scores, types and merges has 1.3 million
_MAX_OTHERS = 100_000  # of a list that is not the tokenizer's; the library needs 20 s and 0.5 GB for a million
_MAX_SHORT = 4_096  # of a list with a value per layer
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file: its `shape` in torch's order, and the place of its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int  # of gguf.GGMLQuantizationType
    file: Path
    start: int
    size_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """The header of a file: `values` has its single values, `lengths` the number of elements of its lists.

    `lists` has the elements of short lists of numbers.
    """

    path: Path
    values: dict[str, Any]
    lengths: dict[str, int]
    lists: dict[str, tuple[Any, ...]]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])


def parts_of(path: Path) -> list[Path]:
    """All files of the model in `path`, in order, which may be one of several parts.

    Raises DraftbenchError if parts are missing.
    """
    named = _PART.fullmatch(path.name)
    if named is None:
        return [path]
    count = int(named["count"])
    if not 1 <= int(named["number"]) <= count <= _MAX_KEYS:
        raise _refused(path, f"its name says part {int(named['number'])} of {count}")
    parts = [path.with_name(f"{named['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise DraftbenchError(
            f"{path} is one part of a model of {count}, and {missing[0]} is not beside it",
            f"{len(missing)} of {count} parts are missing: their tensors would be random numbers",
            "put all parts into one folder, or join them with llama.cpp's `gguf-split --merge`",
        )
    return parts


def read_header(path: Path) -> GgufHeader:
    """Read the header of a file. Raises DraftbenchError if it contradicts itself or the file's size."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            return _Reader(path, blob).header()
    except (ValueError, struct.error, OSError, UnicodeDecodeError) as error:
        raise _refused(path, str(error)) from error


def read_whole(path: Path) -> GgufHeader:
    """Read the header of a model that may be split over several files, with the tensors of all of them."""
    headers = [read_header(part) for part in parts_of(path)]
    first = headers[0]
    split = int(first.values.get("split.count", 1) or 1)
    if split > len(headers):
        raise DraftbenchError(
            f"{path} is one part of a model of {split}",
            "its header says so, and the names of the other parts do not follow from its own",
            "give the parts their original names (NAME-00001-of-00002.gguf), or join them with `gguf-split --merge`",
        )
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    names = {tensor.name for tensor in tensors}
    if len(names) < len(tensors):
        raise _refused(path, "two of its parts hold a tensor of the same name")
    declared = first.values.get("split.tensors.count")
    if declared is not None and declared != len(tensors):
        raise _refused(path, f"its header counts {declared} tensors and its parts hold {len(tensors)}")
    _check_layers(path, first, names)
    return GgufHeader(path, first.values, first.lengths, first.lists, tensors)


def _check_layers(path: Path, header: GgufHeader, names: set[str]) -> None:
    """Check that all layers that the header counts are there, before a model of that depth is built."""
    claimed = header.values.get(f"{header.architecture}.block_count")
    if not isinstance(claimed, int) or isinstance(claimed, bool) or claimed < 1:
        raise _refused(path, f"{header.architecture}.block_count is {claimed!r}, not a number of layers")
    held = {int(match[1]) for name in names if (match := re.match(r"blk\.(\d{1,6})\.", name))}
    if len(held) < claimed or held != set(range(len(held))):
        absent = next(i for i in range(claimed + 1) if i not in held)
        raise _refused(
            path, f"it counts {claimed:,} layers and holds tensors of {len(held):,}; layer {absent} is missing"
        )


def _refused(path: Path, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"{path} could not be read as a GGUF model",
        why,
        "check that the file is whole (compare its size and hash with where it came from) and a language model",
    )


class _Reader:
    """A position in the bytes of a file; every read is checked against the number of bytes that are left."""

    def __init__(self, path: Path, blob: mmap.mmap) -> None:
        self.path, self.blob, self.place, self.elements = path, blob, 0, 0
        self.lists: dict[str, tuple[Any, ...]] = {}

    def header(self) -> GgufHeader:
        if self.take(4) != b"GGUF":
            raise ValueError("it does not begin with the mark of a GGUF file")
        version = self.number("I")
        if version not in _VERSIONS:
            raise ValueError(f"GGUF version {version} is not known (byte order, or a newer format)")
        tensor_count, key_count = self.number("Q"), self.number("Q")
        if tensor_count > _MAX_TENSORS or key_count > _MAX_KEYS:
            raise ValueError(f"it claims {tensor_count:,} tensors and {key_count:,} keys")
        values, lengths = self.keys(key_count)
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", architecture):
            raise ValueError(f"its architecture is {str(architecture)[:40]!r}")
        entries = [self.entry() for _ in range(tensor_count)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise ValueError(f"its alignment is {alignment!r}, not a power of two")
        start = -(-self.place // alignment) * alignment
        return GgufHeader(self.path, values, lengths, self.lists, self.placed(entries, start, alignment))

    def take(self, count: int) -> bytes:
        if count > len(self.blob) - self.place:
            raise ValueError(f"it ends at byte {len(self.blob):,}, where its header asks for {count:,} more")
        self.place += count
        return self.blob[self.place - count : self.place]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self, most: int) -> str:
        length = self.number("Q")
        if length > most:
            raise ValueError(f"a text in its header claims {length:,} bytes")
        return self.take(length).decode("utf-8")

    def keys(self, count: int) -> tuple[dict[str, Any], dict[str, int]]:
        values: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(count):
            key = self.text(_MAX_NAME_BYTES)
            if key in values or key in lengths:
                raise ValueError(f"the key {key[:80]!r} is there twice")
            kind = self.number("I")
            if kind == _ARRAY:
                lengths[key] = self.skip_array(key)
            else:
                values[key] = self.value(kind)
        return values, lengths

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text(_MAX_TEXT_BYTES)
        if kind not in _SCALARS:
            raise ValueError(f"a value in its header has the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def skip_array(self, key: str) -> int:
        kind, count = self.number("I"), self.number("Q")
        self.elements += count
        if self.elements > _MAX_ELEMENTS or (count > _MAX_OTHERS and not key.startswith("tokenizer.ggml.")):
            raise ValueError(f"the list {key[:80]!r} in its header claims {count:,} elements")
        if kind == _STRING:
            for _ in range(count):
                self.text(_MAX_TEXT_BYTES)
        elif kind in _SCALARS:
            raw = self.take(count * struct.calcsize("<" + _SCALARS[kind]))
            if count <= _MAX_SHORT:
                self.lists[key] = struct.unpack(f"<{count}{_SCALARS[kind]}", raw)
        else:
            raise ValueError(f"a list in its header has elements of the unknown type {kind}")
        return int(count)

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(_MAX_NAME_BYTES), self.number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]!r} has {dimensions:,} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(dimensions)]))
        return name, shape, self.number("I"), self.number("Q")

    def placed(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> tuple[GgufTensor, ...]:
        tensors, names, total = [], set(), 0
        for name, shape, kind, offset in entries:
            size, at = _size_bytes(name, shape, kind), start + offset
            if name in names:
                raise ValueError(f"the tensor {name[:80]!r} is there twice")
            if offset % alignment or at + size > len(self.blob):
                raise ValueError(f"the tensor {name[:80]!r} is not inside the file, which may have been cut")
            names.add(name)
            total += size
            tensors.append(GgufTensor(name, shape, kind, self.path, at, size))
        if total > len(self.blob):
            raise ValueError(f"its tensors have {total:,} bytes and the file {len(self.blob):,}: they overlap")
        return tuple(tensors)


def _size_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {int(t): sizes for t, sizes in GGML_QUANT_SIZES.items()}
    if kind not in known:
        raise ValueError(f"the tensor {name[:80]!r} has the unknown type {kind}")
    block, block_bytes = known[kind]
    if min(shape) < 1 or prod(shape) > 1 << 44 or shape[-1] % block:
        what = GGMLQuantizationType(kind).name
        raise ValueError(f"the tensor {name[:80]!r} has shape {list(shape)}, which {what} cannot have")
    return int(prod(shape) // block * block_bytes)
