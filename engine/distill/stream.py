"""The log of a stream of queries: each query's text, and its tokens that were judged and refused.

    runs/<id>/stream/
      answers.jsonl  a line per query, in stream order: text, fates, and the offset of its signal
      signal.bin     the target's signal at each token of a decoded stream; a replayed one has its capture's

Appended query by query, the signal before the line that points to it. A resumed run cuts what came
after its checkpoint and streams those queries again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.decode.events import Fate, Round
from engine.fileio import append_line, disk_errors, read_lines, write_atomic
from engine.records.events import StreamedQuery

JUDGED = (Fate.ACCEPTED, Fate.CORRECTED)
"""Emitted tokens that answer a proposal. A bonus token answers none: there was no refusal and no acceptance."""


@dataclass(frozen=True)
class Streamed:
    """A query that the stream has passed. Places count the tokens of its text from 0."""

    query: int  # from 0, in stream order
    update: int  # updates of the draft before it was decoded
    prompt_id: str
    prompt_ids: list[int]
    token_ids: list[int]
    judged: list[int]  # places at which the draft had proposed: accepted tokens and corrected ones
    wrong: list[int]  # those of the corrected tokens: what stood there of the draft was refused
    rounds: int
    drafted: int
    expected: float  # sum of sum_v min(p, q) over the judged places

    def keep(self, positions: str) -> torch.Tensor:
        """[token] bool: where to learn from, `positions` being 'wrong' or 'all'."""
        keep = torch.zeros(len(self.token_ids), dtype=torch.bool)
        keep[self.wrong if positions == "wrong" else self.judged] = True
        return keep

    def event(self, steps_per_update: int) -> StreamedQuery:
        """The event of the run's folder; its step counts optimiser steps, as those of other events do."""
        return StreamedQuery(
            query=self.query + 1,
            prompt_id=self.prompt_id,
            step=self.update * steps_per_update,
            emitted=len(self.token_ids),
            rounds=self.rounds,
            drafted=self.drafted,
            accepted=len(self.judged) - len(self.wrong),
            examined=len(self.judged),
            expected=round(self.expected, 4),
        )


def streamed(query: int, update: int, prompt_id: str, prompt_ids: Sequence[int], rounds: Sequence[Round]) -> Streamed:
    """What became of one query from the rounds of its decoding."""
    emitted = [token for item in rounds for token in item.tokens if token.fate in (*JUDGED, Fate.BONUS)]
    places = range(len(emitted))
    overlaps = [token.overlap or 0.0 for item in rounds for token in item.tokens]  # of judged proposals alone
    return Streamed(
        query,
        update,
        prompt_id,
        list(prompt_ids),
        [token.token_id for token in emitted],
        [i for i in places if emitted[i].fate in JUDGED],
        [i for i in places if emitted[i].fate is Fate.CORRECTED],
        len(rounds),
        sum(item.drafted for item in rounds),
        float(sum(overlaps)),
    )


class StreamLog:
    """The folder of a stream. `bytes_per_token`: of the signal that is kept in it; 0 if it is in a capture."""

    def __init__(self, folder: Path, bytes_per_token: int) -> None:
        self.folder, self.stride = folder, bytes_per_token
        self.entries: list[Streamed] = []
        self._offsets: list[int] = []

    def cut(self, updates: int) -> None:
        """Open the log to resume after `updates` updates: keep the whole entries of earlier ones, drop the rest."""
        lines: list[dict[str, Any]] = []
        end = 0
        for line in read_lines(self.folder / "answers.jsonl"):
            count = self.stride * len(line["token_ids"])
            whole = line["offset"] == end and zlib.crc32(self._bytes(end, count)) == line["crc32"]
            if line["update"] >= updates or not whole or line["query"] != len(lines):
                break
            lines.append(line)
            end += count
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomic(self.folder / "answers.jsonl", text)
            (self.folder / "signal.bin").touch()
            os.truncate(self.folder / "signal.bin", end)
        self._offsets = [line["offset"] for line in lines]
        names = Streamed.__dataclass_fields__
        self.entries = [Streamed(**{k: v for k, v in line.items() if k in names}) for line in lines]

    def append(self, entry: Streamed, raw_signal: torch.Tensor | None) -> None:
        """Keep a query. raw_signal: [token, bytes_per_token] uint8, None if it is in a capture."""
        raw = b"" if raw_signal is None else raw_signal.contiguous().numpy().tobytes()
        path = self.folder / "signal.bin"
        with disk_errors(path), open(path, "ab") as file:
            offset = file.seek(0, os.SEEK_END)
            file.write(raw)
        append_line(self.folder / "answers.jsonl", {**asdict(entry), "offset": offset, "crc32": zlib.crc32(raw)})
        self.entries.append(entry)
        self._offsets.append(offset)

    def flush(self) -> None:
        """Have the disk hold what was appended, also after a loss of power."""
        for name in ("signal.bin", "answers.jsonl"):
            path = self.folder / name
            if path.exists():
                with disk_errors(path), open(path, "rb+") as file:
                    os.fsync(file.fileno())

    def raw_signal(self, query: int) -> torch.Tensor:
        """[token, bytes_per_token] uint8 of a query, read from disk."""
        count = len(self.entries[query].token_ids)
        raw = bytearray(self._bytes(self._offsets[query], self.stride * count))
        flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.zeros(0, dtype=torch.uint8)
        return flat.view(count, self.stride)

    def _bytes(self, offset: int, count: int) -> bytes:
        path = self.folder / "signal.bin"
        if count == 0 or not path.exists():
            return b""
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(count)
