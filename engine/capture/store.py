"""A capture on disk: resumable at any moment, shared by every run that asks for the same.

    captures/<address>/
      spec.json      what the address is the hash of
      answers.jsonl  a line a finished prompt: ids, finish reason, where its signal lies
      signal.bin     raw signal bytes, appended before the line that points to them
      done.json      counts and seconds; there only when every prompt is answered

A kill can leave signal bytes without a line (cut off on resume) or half a line (skipped).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from engine.capture.adopt import answers_elsewhere
from engine.capture.generate import Answer, answer_prompts
from engine.capture.signal import SignalFormat, signal_format
from engine.chat.prompt import Prompt
from engine.chat.rendering import render, template_hash
from engine.chat.template_date import clock_identity
from engine.config.schema import CaptureSpec
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.fileio import append_line, content_hash, disk_errors, read_json, read_lines, write_json
from engine.models.head import check_head
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress

_FORMAT = 1  # raise it when the meaning of the bytes changes
# Families whose rows used to share a cache though they count its columns: their captures of then hold another text.
_ONCE_WITH_HOLES = ("gpt_neo",)


@dataclass(frozen=True)
class CapturePlan:
    """What a capture will be, known before the target writes a word."""

    folder: Path
    spec: dict[str, Any]
    signal: SignalFormat
    prompts: list[Prompt]
    prompt_ids: list[list[int]]

    @property
    def address(self) -> str:
        return self.folder.name

    @property
    def most_tokens(self) -> int:
        return len(self.prompts) * int(self.spec["max_new_tokens"])

    @property
    def most_bytes(self) -> int:
        return self.most_tokens * self.signal.bytes_per_token


@dataclass(frozen=True)
class AnsweredPrompt:
    """One answered prompt: the prompt's ids, the target's tokens and how the answer ended."""

    prompt_id: str
    group: str
    prompt_ids: list[int]
    token_ids: list[int]
    finish_reason: str
    offset: int  # of its signal in signal.bin, bytes


def plan_capture(captures: Path, target: LoadedModel, prompts: Sequence[Prompt], settings: CaptureSpec) -> CapturePlan:
    """Render the prompts and work out the capture's address.

    The address covers everything that changes the answers or the signal: weights, dtype,
    template, prompts, sampling and signal. The batch size is not part of it.
    """
    signal = signal_format(settings.signal, target.model, settings.signal_top_k)
    rendered = [
        render(
            target.tokenizer,
            prompt,
            context_tokens=target.context_tokens,
            max_new_tokens=settings.max_new_tokens,
            rows=target.input_rows,
        )
        for prompt in prompts
    ]
    spec = {
        "format": _FORMAT,
        "target": target.fingerprint,
        "dtype": target.dtype_name,
        "template": template_hash(target.tokenizer),
        "prompts": content_hash([[prompt.id, ids] for prompt, ids in zip(prompts, rendered, strict=True)]),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "signal": {"kind": signal.kind, "bytes_per_token": signal.bytes_per_token},
        **target.turns.stops_identity(),
        **clock_identity(target.tokenizer),
    }
    if target.model.config.model_type in _ONCE_WITH_HOLES:
        spec["rows"] = "apart"
    return CapturePlan(captures / content_hash(spec)[:24], spec, signal, list(prompts), rendered)


class Capture:
    """A finished capture, open for reading. The signal is mapped, not loaded."""

    def __init__(self, folder: Path, signal: SignalFormat) -> None:
        self.folder, self.format = folder, signal
        if not (folder / "done.json").exists():
            raise DraftbenchError(
                f"capture {folder.name} is not finished", "some prompts have no answer yet", "run it again: it resumes"
            )
        self.done: dict[str, Any] = read_json(folder / "done.json")
        spec = read_json(folder / "spec.json") if (folder / "spec.json").exists() else {}
        self.greedy = spec.get("temperature") == 0  # then each token written was the target's choice
        self.answers = sorted(_answers(folder), key=lambda answer: answer.prompt_id)
        path = folder / "signal.bin"
        stride = signal.bytes_per_token
        self._raw = (
            np.memmap(path, dtype=np.uint8, mode="r") if stride and path.stat().st_size else np.zeros(0, np.uint8)
        )

    @property
    def address(self) -> str:
        return self.folder.name

    @property
    def tokens(self) -> int:
        """Tokens the target wrote, in all."""
        return sum(len(answer.token_ids) for answer in self.answers)

    def raw_signal(self, answer: AnsweredPrompt) -> torch.Tensor:
        """[token, bytes_per_token] uint8, copied out of the map."""
        stride = self.format.bytes_per_token
        end = answer.offset + stride * len(answer.token_ids)
        return torch.from_numpy(np.array(self._raw[answer.offset : end])).view(len(answer.token_ids), stride)

    @property
    def positions(self) -> int:
        """Positions that signal.bin holds."""
        return len(self._raw) // max(1, self.format.bytes_per_token)

    def raw_positions(self, part: slice) -> torch.Tensor:
        """[position, bytes_per_token] uint8 of some positions in the order they lie on disk, copied out of the map."""
        stride = self.format.bytes_per_token
        return torch.from_numpy(np.array(self._raw[part.start * stride : part.stop * stride])).view(-1, stride)

    def places(self, answer: AnsweredPrompt) -> torch.Tensor:
        """[token] int64: where each position of the answer lies in signal.bin, counted in positions; 0 without signal."""
        first = answer.offset // max(1, self.format.bytes_per_token)
        return (
            torch.arange(first, first + len(answer.token_ids))
            if self.format.bytes_per_token
            else torch.zeros(len(answer.token_ids), dtype=torch.long)
        )


def make_capture(plan: CapturePlan, target: LoadedModel, *, batch_size: int, progress: Progress = SILENT) -> Capture:
    """The capture of a plan: read if it is finished, resumed if it was begun, else made.

    Two processes that want the same capture: the second waits for the first and reuses it.
    Raises Cancelled between two finished prompts when the progress says so.
    """
    return completed(plan, lambda: _fill(plan, target, batch_size, progress), progress)


def completed(plan: CapturePlan, fill: Callable[[], None], progress: Progress) -> Capture:
    """The capture of a plan; `fill` makes what is missing of it, in this process alone, whoever the answers come from."""
    if not (plan.folder / "done.json").exists():
        with disk_errors(plan.folder):
            plan.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(plan.folder, progress, f"capture {plan.address}"):
                if not (plan.folder / "done.json").exists():
                    fill()
    return Capture(plan.folder, plan.signal)


@contextlib.contextmanager
def exclusive(folder: Path, progress: Progress, what: str) -> Iterator[None]:
    """Hold a folder's lock; says whom it waits for and stays stoppable meanwhile."""
    lock = FileLock(folder / ".lock")
    told = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            if not told:
                progress.note(f"{what} is being made by another process: waiting to reuse it")
                told = True
            progress.stop_if_asked()
    try:
        yield
    finally:
        lock.release()


def _fill(plan: CapturePlan, target: LoadedModel, batch_size: int, progress: Progress) -> None:
    if plan.signal.kind == "exact":
        check_head(target.model)
    growing = GrowingCapture(plan, progress)
    missing = growing.missing
    answers = answer_prompts(
        target.model,
        [plan.prompt_ids[i] for i in missing],
        [plan.prompts[i].id for i in missing],
        Sampling(plan.spec["temperature"], plan.spec["top_k"], plan.spec["top_p"]),
        max_new_tokens=plan.spec["max_new_tokens"],
        stop_ids=target.stop_ids,
        seed=plan.spec["seed"],
        batch_size=batch_size,
        signal=plan.signal,
        before_forward=progress.stop_if_asked,
    )
    for answer in answers:
        growing.add(missing[answer.index], answer)
    growing.finish()


class GrowingCapture:
    """A capture while it is made: what an interrupted one has is kept, what others have of it is copied.

    `missing`: indices into `plan.prompts` without an answer. `add` each of them, in any order, then `finish`.
    Only for the process that holds the folder's lock (`completed`).
    """

    def __init__(self, plan: CapturePlan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        finished = {sequence.prompt_id: sequence for sequence in _recover(plan)}
        missing = [i for i, prompt in enumerate(plan.prompts) if prompt.id not in finished]
        _refuse_if_too_large(plan, len(missing))
        write_json(plan.folder / "spec.json", plan.spec)
        stride = plan.signal.bytes_per_token
        self._offset = max((s.offset + stride * len(s.token_ids) for s in finished.values()), default=0)
        self.missing = self._without_adopted(missing)
        self._began, self._tokens = time.monotonic(), 0
        progress.start("capture", len(plan.prompts), "prompts", done=len(plan.prompts) - len(self.missing))

    def _without_adopted(self, missing: list[int]) -> list[int]:
        """Copy what other captures have of the missing answers; what is still missing."""
        adopted = set()
        wanted = {self.plan.prompts[i].id: self.plan.prompt_ids[i] for i in missing}
        for answer in answers_elsewhere(self.plan.folder, self.plan.spec, wanted):
            self._append(missing[answer.index], answer, answer.beside)
            adopted.add(missing[answer.index])
            self.progress.stop_if_asked()
        if adopted:
            self.progress.note(
                f"{len(adopted)} of {len(missing)} answers are in other captures and were copied from there"
            )
        return [i for i in missing if i not in adopted]

    def add(self, which: int, answer: Answer, **more: Any) -> None:
        """Keep the answer to prompt number `which`; `more` is written beside it."""
        self._append(which, answer, more)
        self._tokens += len(answer.token_ids)
        self.progress.advance(1, tokens_per_s=round(self._tokens / (time.monotonic() - self._began), 1))

    def finish(self, **more: Any) -> None:
        """Every prompt is answered: mark the capture as done, with its counts and `more`."""
        self.progress.finish()
        _finish(self.plan, time.monotonic() - self._began, self._tokens, more)

    def _append(self, which: int, answer: Answer, more: Mapping[str, Any]) -> None:
        _append(self.plan, which, answer, self._offset, more)
        self._offset += answer.signal.numel()


def _append(plan: CapturePlan, which: int, answer: Answer, offset: int, more: Mapping[str, Any]) -> None:
    raw = answer.signal.numpy().tobytes()
    path = plan.folder / "signal.bin"
    with disk_errors(path), open(path, "ab") as file:
        file.write(raw)
    line = {
        "id": plan.prompts[which].id,
        "group": plan.prompts[which].group,
        "prompt_ids": plan.prompt_ids[which],
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "offset": offset,
        "crc32": zlib.crc32(raw),
        **more,
    }
    append_line(plan.folder / "answers.jsonl", line)


def _recover(plan: CapturePlan) -> list[AnsweredPrompt]:
    """Finished answers of an interrupted capture whose signal is whole; cuts what follows them.

    Stops at the first answer whose bytes are missing or wrong, as after a loss of power.
    """
    path = plan.folder / "signal.bin"
    raw = path.read_bytes() if path.exists() else b""
    good: list[AnsweredPrompt] = []
    lines = list(read_lines(plan.folder / "answers.jsonl"))
    end = 0
    for line in lines:
        until = line["offset"] + plan.signal.bytes_per_token * len(line["token_ids"])
        if line["offset"] != end or until > len(raw) or zlib.crc32(raw[line["offset"] : until]) != line["crc32"]:
            break
        good.append(_sequence(line))
        end = until
    if len(good) < len(lines):
        kept = plan.folder / ".answers.new"
        kept.unlink(missing_ok=True)
        for line in lines[: len(good)]:
            append_line(kept, line)
        kept.replace(plan.folder / "answers.jsonl") if good else (plan.folder / "answers.jsonl").unlink()
    if len(raw) > end:
        os.truncate(path, end)
    return good


def _answers(folder: Path) -> list[AnsweredPrompt]:
    return [_sequence(line) for line in read_lines(folder / "answers.jsonl")]


def _sequence(line: dict[str, Any]) -> AnsweredPrompt:
    return AnsweredPrompt(
        line["id"], line["group"], line["prompt_ids"], line["token_ids"], line["finish_reason"], line["offset"]
    )


def _finish(plan: CapturePlan, seconds: float, new_tokens: int, more: Mapping[str, Any]) -> None:
    (plan.folder / "signal.bin").touch()
    answers = _answers(plan.folder)
    write_json(
        plan.folder / "done.json",
        {
            "prompts": len(answers),
            "tokens": sum(len(a.token_ids) for a in answers),
            "stopped": sum(a.finish_reason == "stop" for a in answers),
            "bytes_per_token": plan.signal.bytes_per_token,
            "signal_bytes": (plan.folder / "signal.bin").stat().st_size,
            "last_session": {"tokens": new_tokens, "seconds": round(seconds, 3)},
            **more,
        },
    )


def _refuse_if_too_large(plan: CapturePlan, missing: int) -> None:
    """Refuse what may not fit: the signal of the prompts still to answer, at their longest."""
    free, tokens = shutil.disk_usage(plan.folder).free, missing * int(plan.spec["max_new_tokens"])
    needed = tokens * plan.signal.bytes_per_token
    if needed > free:
        raise DraftbenchError(
            f"the capture may need {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free",
            f"{tokens:,} tokens at {plan.signal.bytes_per_token:,} bytes of {plan.signal.kind} signal each",
            "free some space, use capture.signal: compact, or fewer prompts",
        )
