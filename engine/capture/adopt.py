"""Copy answers from other captures: prompt sets overlap, and generating an answer costs a hundred times its copy.

An answer depends on its prompt, the target, the sampling settings and the prompt's own random stream, not on the other
prompts. So captures that differ only in their prompts have the same answer for each prompt in both: nested sets of a
scaling curve are generated once, and a set that becomes smaller or larger loses nothing.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.answer import Answer
from engine.capture.answered import is_complete
from engine.errors import DraftbenchError
from engine.fileio import read_lines, read_object

SHARDS = "shards"  # in a capture's folder: parts of it that are being made (engine.capture.shards)
# Stored beside a server's answer (engine.served.capture).
_SERVED_KEYS = ("ids", "prompt_tokens", "noted", "signal", "server")


def answers_elsewhere(folder: Path, spec: Mapping[str, Any], wanted: Mapping[str, Sequence[int]]) -> Iterator[Answer]:
    """Yield answers to the wanted prompts from the other captures of a home, finished or not, each at most once.

    Captures are read with their shards, and a shard also adopts from the capture that it is a part of. `wanted`: prompt
    id -> the ids it was rendered to; `index` counts in its order. Answers of a server come with the values stored
    beside them. Bytes with a wrong checksum are skipped.
    """
    indices = {prompt_id: index for index, prompt_id in enumerate(wanted)}
    stride = int(spec["signal"]["bytes_per_token"])
    for beside in _others(folder, spec) if indices else ():
        with contextlib.suppress(FileNotFoundError):  # shards are removed once they are joined
            for line in read_lines(beside / "answers.jsonl"):
                index = indices.get(line["id"]) if is_complete(line) else None
                if index is None or line["prompt_ids"] != list(wanted[line["id"]]):
                    continue
                raw = _bytes_at(beside / "signal.bin", line["offset"], stride * len(line["token_ids"]))
                if zlib.crc32(raw) == line["crc32"]:
                    del indices[line["id"]]
                    more = {name: line[name] for name in _SERVED_KEYS if name in line}
                    yield Answer(index, line["token_ids"], line["finish_reason"], as_signal(raw), more)


def as_signal(raw: bytes) -> torch.Tensor:
    """The bytes of an answer's signal: [byte], uint8."""
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.zeros(0, dtype=torch.uint8)


def _others(folder: Path, spec: Mapping[str, Any]) -> list[Path]:
    """The other captures and shards by the same writer. `folder` is that of a capture or of a shard."""
    is_shard = folder.parent.name == SHARDS
    captures = folder.parents[2] if is_shard else folder.parent
    # of the same cut no shard has a prompt of another
    mine = set(folder.parent.glob(f"*-of-{folder.name.rpartition('-')[2]}")) if is_shard else {folder}
    beside = {*captures.glob("*/"), *captures.glob(f"*/{SHARDS}/*/")} - mine
    return sorted(path for path in beside if _has_same_writer(path, spec))


def _has_same_writer(folder: Path, spec: Mapping[str, Any]) -> bool:
    """Whether a capture differs from `spec` only in its prompts; not one whose own spec cannot be read."""
    try:
        return {**read_object(folder / "spec.json"), "prompts": None} == {**spec, "prompts": None}
    except (OSError, DraftbenchError):  # damaged, or another user's: it costs a copy, and no capture of this one's own
        return False


def _bytes_at(path: Path, offset: int, count: int) -> bytes:
    if count == 0 or not path.exists():
        return b""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(count)
