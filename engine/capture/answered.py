"""The answers of a finished capture and their signal, compared with what was written before anything is made of them.

Counts and sizes are compared when a capture is opened; the checksum of an answer's signal where it is first read, so
that nothing is read for it that is not needed anyway.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import DraftbenchError, boundary
from engine.fileio import read_lines
from engine.records.capture import CaptureCounts

ANSWERS, SIGNAL = "answers.jsonl", "signal.bin"


@dataclass(frozen=True)
class AnsweredPrompt:
    """One answered prompt: the prompt's ids, the target's tokens and how the answer ended."""

    prompt_id: str
    group: str
    prompt_ids: list[int]
    token_ids: list[int]
    finish_reason: str
    offset: int  # of its signal in signal.bin, bytes
    crc32: int | None = None  # of its signal; None: not known


def is_complete(line: Mapping[str, Any]) -> bool:
    """Whether a line of `answers.jsonl` has all that a new one is written with."""
    return {"id", "group", "prompt_ids", "token_ids", "finish_reason", "offset", "crc32"} <= line.keys()


def answered(line: Mapping[str, Any]) -> AnsweredPrompt:
    """The answer in a line of `answers.jsonl`."""
    return AnsweredPrompt(
        line["id"],
        line["group"],
        line["prompt_ids"],
        line["token_ids"],
        line["finish_reason"],
        line["offset"],
        line.get("crc32"),
    )


def read_answers(folder: Path, counts: CaptureCounts) -> list[AnsweredPrompt]:
    """The answers of a finished capture by their prompts' ids. Raises DraftbenchError if they are not those counted."""
    with boundary(f"the answers of capture {folder.name} cannot be read", _how_to_repair(folder)):
        answers = sorted(map(answered, read_lines(folder / ANSWERS)), key=lambda answer: answer.prompt_id)
        here = {"prompts": len({a.prompt_id for a in answers}), "tokens": sum(len(a.token_ids) for a in answers)}
    for name, count in here.items():
        recorded = getattr(counts, name)
        if name in counts.model_fields_set and recorded != count:
            raise damaged(folder, f"{ANSWERS} holds answers of {count:,} {name}, and {recorded:,} were written")
    return answers


class SignalFile:
    """The signal of a finished capture, mapped, not loaded. Raises DraftbenchError for one that is not as written."""

    def __init__(self, folder: Path, stride: int, answers: Sequence[AnsweredPrompt]) -> None:
        path, self._folder, self._stride = folder / SIGNAL, folder, stride
        needed = stride * sum(len(answer.token_ids) for answer in answers)
        size = path.stat().st_size if path.is_file() else 0
        if stride and size != needed:
            raise damaged(folder, f"{SIGNAL} has {size:,} bytes, and its answers {needed:,}")
        self._raw = np.memmap(path, dtype=np.uint8, mode="r") if needed else np.zeros(0, np.uint8)
        self._by_place = sorted(answers, key=lambda answer: (answer.offset, len(answer.token_ids)))
        self._begins = [answer.offset for answer in self._by_place]
        ends = [0, *(self._end(answer) for answer in self._by_place)]
        if stride and ends[:-1] != self._begins:
            raise damaged(folder, f"the places of its answers in {SIGNAL} leave gaps")
        self._checked = [False] * len(self._by_place)

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, start: int, end: int) -> torch.Tensor:
        """[bytes // stride, stride] uint8, copied out of the map; `start`, `end`: bytes of whole positions."""
        first = max(0, bisect_right(self._begins, start) - 1)
        for i in range(first, bisect_left(self._begins, end)):
            self._check(i)
        raw = torch.from_numpy(np.array(self._raw[start:end]))
        return raw.view(-1, self._stride) if self._stride else raw.view(0, 0)

    def _end(self, answer: AnsweredPrompt) -> int:
        return answer.offset + self._stride * len(answer.token_ids)

    def _check(self, number: int) -> None:
        answer = self._by_place[number]
        if not (self._checked[number] or answer.crc32 is None):
            if zlib.crc32(self._raw[answer.offset : self._end(answer)].data) != answer.crc32:
                raise damaged(self._folder, f"the signal of prompt {answer.prompt_id!r} is not what was written")
            self._checked[number] = True


def damaged(folder: Path, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"capture {folder.name} is damaged: {why}", "drafts would learn from it", _how_to_repair(folder)
    )


def _how_to_repair(folder: Path) -> str:
    return f"remove {folder / 'done.json'} and run again: whole answers are kept, the others are made again"
