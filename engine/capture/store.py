"""A capture on disk: resumable at any moment, shared by every run that asks for the same.

    captures/<address>/
      spec.json      what the address is the hash of
      answers.jsonl  one line per answered prompt: ids, finish reason, offset of its signal
      signal.bin     raw signal bytes, appended before the line that points to them
      done.json      counts and seconds, written once every prompt is answered
      shards/        parts that several processes make, until they are joined (engine.capture.shards)

A killed process can leave signal bytes without a line (cut off on resume) or half a line (skipped).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from engine.capture.adopt import SHARDS, answers_elsewhere
from engine.capture.answer import Answer
from engine.capture.answered import AnsweredPrompt, SignalFile, answered, is_complete, read_answers
from engine.capture.batch_size import most_rows
from engine.capture.plan import DONE, CapturePlan
from engine.capture.signal import SignalFormat
from engine.capture.writer import WriterThread
from engine.config.capture import BatchSize
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.fileio import append_line, content_hash, disk_errors, read_json, read_lines, read_object, write_json
from engine.models.head import check_head
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.capture import CaptureCounts, LastSession, ServedAnswers

SMALLER = "out of memory: the target answers {rows} prompts at a time from here on"


class Capture:
    """A finished capture, open for reading: as it was written, or refused. The signal is mapped, not loaded."""

    def __init__(self, folder: Path, signal: SignalFormat) -> None:
        self.folder, self.format = folder, signal
        counts = CaptureCounts.read(folder)
        if counts is None:
            raise DraftbenchError(
                f"capture {folder.name} is not finished", "some prompts have no answer yet", "run it again: it resumes"
            )
        self.counts = counts.model_copy(update={"address": folder.name})
        spec = read_json(folder / "spec.json") if (folder / "spec.json").exists() else {}
        self.greedy = spec.get("temperature") == 0  # then each token written was the target's choice
        self.answers = read_answers(folder, counts)
        self._raw = SignalFile(folder, signal.bytes_per_token, self.answers)

    @property
    def address(self) -> str:
        return self.folder.name

    @property
    def tokens(self) -> int:
        """Tokens the target wrote, in all."""
        return sum(len(answer.token_ids) for answer in self.answers)

    def raw_signal(self, answer: AnsweredPrompt) -> torch.Tensor:
        """[token, bytes_per_token] uint8, copied out of the map."""
        count, stride = len(answer.token_ids), self.format.bytes_per_token
        return self._raw.read(answer.offset, answer.offset + stride * count).view(count, stride)

    @property
    def positions(self) -> int:
        """Positions that signal.bin holds."""
        return len(self._raw) // max(1, self.format.bytes_per_token)

    def raw_positions(self, part: slice) -> torch.Tensor:
        """[position, bytes_per_token] uint8 of a range of positions in the order on disk, copied out of the map."""
        stride = self.format.bytes_per_token
        return self._raw.read(part.start * stride, part.stop * stride)

    def places(self, answer: AnsweredPrompt) -> torch.Tensor:
        """[token] int64: the number of each of the answer's positions in signal.bin; 0 without a signal."""
        first = answer.offset // max(1, self.format.bytes_per_token)
        return (
            torch.arange(first, first + len(answer.token_ids))
            if self.format.bytes_per_token
            else torch.zeros(len(answer.token_ids), dtype=torch.long)
        )


def make_capture(
    plan: CapturePlan, target: LoadedModel, *, batch_size: BatchSize, progress: Progress = SILENT
) -> Capture:
    """Return the capture of a plan: a finished one is read, one that was begun is resumed.

    Of two processes that want the same capture, the second waits for the first and reuses its work. Raises Cancelled
    between two finished prompts when the progress says so.
    """
    return completed(plan, lambda: _fill(plan, target, batch_size, progress), progress)


def completed(plan: CapturePlan, fill: Callable[[], None], progress: Progress) -> Capture:
    """Return the capture of a plan, after `fill` has added the missing answers under the folder's lock.

    Shards of it that are being made are waited for; then their answers are copied, and they are removed.
    """
    if not plan.is_finished:
        with disk_errors(plan.folder):
            plan.folder.mkdir(parents=True, exist_ok=True)
            _wait_for(plan, progress, f"{SHARDS}/.lock", f"{SHARDS}/*/.lock")
            with exclusive(plan.folder, progress, f"capture {plan.address}"):
                _wait_for(plan, progress, f"{SHARDS}/*/.lock")  # one more may have been begun
                if not plan.is_finished:
                    fill()
    if plan.whole is None:
        shutil.rmtree(plan.folder / SHARDS, ignore_errors=True)
    if (plan.folder / DONE).exists() and not _describes(plan):  # lost after it was written; the address says the same
        write_json(plan.folder / "spec.json", plan.spec)
    return Capture(plan.folder, plan.signal)


def _describes(plan: CapturePlan) -> bool:
    """Whether the spec.json of a capture is the plan's."""
    with contextlib.suppress(FileNotFoundError, DraftbenchError):
        return content_hash(read_object(plan.folder / "spec.json")) == content_hash(plan.spec)
    return False


def _wait_for(plan: CapturePlan, progress: Progress, *locks: str) -> None:
    """Wait until nobody holds these locks of a capture's shards."""
    for lock in sorted(path for pattern in locks for path in plan.folder.glob(pattern)):
        with contextlib.suppress(FileNotFoundError), exclusive(lock.parent, progress, f"capture {plan.address}"):
            pass


@contextlib.contextmanager
def exclusive(folder: Path, progress: Progress, what: str) -> Iterator[None]:
    """Hold a folder's lock. While another process holds it, the progress says so once and can still stop the work."""
    lock = FileLock(folder / ".lock")
    is_waiting = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            if not is_waiting:
                progress.note(f"{what} is being made by another process: waiting to reuse it")
                is_waiting = True
            progress.stop_if_asked()
    try:
        yield
    finally:
        lock.release()


def _fill(plan: CapturePlan, target: LoadedModel, batch_size: BatchSize, progress: Progress) -> None:
    from engine.capture.generate import answer_prompts  # with torch._dynamo: seconds that readers need not wait

    if plan.signal.kind == "exact":
        check_head(target.model)
    growing = GrowingCapture(plan, progress)
    missing = growing.missing
    prompts = [plan.prompt_ids[i] for i in missing]
    most = most_rows(target.model, prompts, plan.spec["max_new_tokens"]) if batch_size == "auto" else batch_size

    answers = answer_prompts(
        target.model,
        prompts,
        [plan.prompts[i].id for i in missing],
        Sampling(plan.spec["temperature"], plan.spec["top_k"], plan.spec["top_p"]),
        max_new_tokens=plan.spec["max_new_tokens"],
        stop_ids=target.stop_ids,
        seed=plan.spec["seed"],
        batch_size=most,
        signal=plan.signal,
        before_forward=progress.stop_if_asked,
        halved=(lambda rows: progress.note(SMALLER.format(rows=rows))) if batch_size == "auto" else None,
    )
    with WriterThread(growing.store) as writer:
        for answer in answers:
            writer.put((missing[answer.index], answer))
            growing.count(answer for _, answer in writer.written())
    growing.count(answer for _, answer in writer.written())
    growing.finish()


class GrowingCapture:
    """A capture that is being written: an interrupted one is continued, and answers in other captures are copied.

    `missing`: indices into `plan.prompts` without an answer. Call `add` for each of them, in any order, then `finish`.
    `add` is `store` and `count` in one; a thread may store while another counts what was stored. Only the process that
    holds the folder's lock (`completed`) may use it.

    With `joins`, a number of bytes, the answers come from shards that hold so much: nothing else is copied, `missing`
    is to be added in its order, and of an interrupted capture only what is in the order of the prompts is kept.
    """

    def __init__(self, plan: CapturePlan, progress: Progress, *, joins: int | None = None) -> None:
        self.plan, self.progress = plan, progress
        finished, self._offset = _recover(plan, in_order=joins is not None)
        missing = [i for i, prompt in enumerate(plan.prompts) if prompt.id not in finished]
        if joins is None:
            refuse_if_too_large(plan, len(missing))
        else:
            _refuse_to_join(plan, joins - size_on_disk(plan.folder))
        write_json(plan.folder / "spec.json", plan.spec)
        self.missing = self._without_adopted(missing) if joins is None else missing
        self._began, self._tokens = time.monotonic(), 0
        phase = "capture" if joins is None else "join"
        progress.start(phase, len(plan.prompts), "prompts", done=len(plan.prompts) - len(self.missing))

    def _without_adopted(self, missing: list[int]) -> list[int]:
        """Copy the missing answers that other captures have; return what is still missing."""
        adopted = set()
        wanted = {self.plan.prompts[i].id: self.plan.prompt_ids[i] for i in missing}
        for answer in answers_elsewhere(self.plan.folder, self.plan.spec, wanted):
            self._append(missing[answer.index], answer, answer.beside)
            adopted.add(missing[answer.index])
            self.progress.stop_if_asked()
        if adopted:
            self.progress.note(f"copied {len(adopted)} of {len(missing)} answers from other captures")
        return [i for i in missing if i not in adopted]

    def add(self, prompt_index: int, answer: Answer, **more: Any) -> None:
        """Store the answer to a prompt of the plan, with the values of `more` beside it."""
        self._append(prompt_index, answer, more)
        self.count([answer])

    def store(self, answered: tuple[int, Answer]) -> None:
        """Store the answer to a prompt of the plan, given as the prompt's index and the answer."""
        self._append(*answered, {})

    def count(self, stored: Iterable[Answer]) -> None:
        """Report answers that were stored as progress."""
        for answer in stored:
            self._tokens += len(answer.token_ids)
            pace = round(self._tokens / (time.monotonic() - self._began), 1)
            self.progress.advance(1, tokens_per_s=pace, tokens=self._tokens)

    def finish(self, server: ServedAnswers | None = None, last_session: LastSession | None = None) -> None:
        """Mark the capture as done once every prompt is answered: write its counts, and those of a server's answers.

        `last_session`: what to write of it, if not the work of this object.
        """
        self.progress.finish()
        folder, seconds = self.plan.folder, time.monotonic() - self._began
        (folder / "signal.bin").touch()
        prompts, tokens, stopped = 0, 0, 0
        for answer in map(answered, read_lines(folder / "answers.jsonl")):
            prompts, tokens = prompts + 1, tokens + len(answer.token_ids)
            stopped += answer.finish_reason == "stop"
        counts = CaptureCounts(
            prompts=prompts,
            tokens=tokens,
            stopped=stopped,
            bytes_per_token=self.plan.signal.bytes_per_token,
            signal_bytes=(folder / "signal.bin").stat().st_size,
            last_session=last_session or LastSession(tokens=self._tokens, seconds=round(seconds, 3)),
        )
        (counts if server is None else counts.model_copy(update={"server": server})).write(folder)

    def _append(self, prompt_index: int, answer: Answer, more: Mapping[str, Any]) -> None:
        raw, prompt = answer.signal.numpy().tobytes(), self.plan.prompts[prompt_index]
        path = self.plan.folder / "signal.bin"
        with disk_errors(path), open(path, "ab") as file:
            file.write(raw)
        line = {
            "id": prompt.id,
            "group": prompt.group,
            "prompt_ids": self.plan.prompt_ids[prompt_index],
            "token_ids": answer.token_ids,
            "finish_reason": answer.finish_reason,
            "offset": self._offset,
            "crc32": zlib.crc32(raw),
            **more,
        }
        append_line(self.plan.folder / "answers.jsonl", line)
        self._offset += len(raw)


def _recover(plan: CapturePlan, *, in_order: bool) -> tuple[set[str], int]:
    """Cut off what follows the whole answers of an interrupted capture; return their prompts and the signal's size.

    The whole answers end before the first whose bytes are missing or wrong, as after a loss of power, and with
    `in_order` also before the first that is not to the next prompt of the plan.
    """
    path, answers_file = plan.folder / "signal.bin", plan.folder / "answers.jsonl"
    path.touch()
    good, end, is_whole = set[str](), 0, True
    with open(path, "rb") as signal:
        for line in read_lines(answers_file):
            is_whole = is_complete(line)
            if not is_whole:
                break
            raw = signal.read(plan.signal.bytes_per_token * len(line["token_ids"]))
            is_next = not in_order or (len(good) < len(plan.prompts) and line["id"] == plan.prompts[len(good)].id)
            is_whole = is_next and line["offset"] == end and zlib.crc32(raw) == line["crc32"]
            if not is_whole:
                break
            good.add(line["id"])
            end += len(raw)
    if not is_whole:
        kept = plan.folder / ".answers.new"
        kept.unlink(missing_ok=True)
        for line in itertools.islice(read_lines(answers_file), len(good)):
            append_line(kept, line)
        kept.replace(answers_file) if good else answers_file.unlink()
    os.truncate(path, end)
    return good, end


def refuse_if_too_large(plan: CapturePlan, missing: int) -> None:
    """Refuse a capture that may not fit: the signal of the unanswered prompts, each at its longest."""
    free, tokens = shutil.disk_usage(plan.folder).free, missing * int(plan.spec["max_new_tokens"])
    needed = tokens * plan.signal.bytes_per_token
    if needed > free:
        raise DraftbenchError(
            f"the capture may need {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free",
            f"{tokens:,} tokens at {plan.signal.bytes_per_token:,} bytes of {plan.signal.kind} signal each",
            "free some space, set capture.signal: compact, or use fewer prompts",
        )


def _refuse_to_join(plan: CapturePlan, needed: int) -> None:
    free = shutil.disk_usage(plan.folder).free
    if needed > free:
        raise DraftbenchError(
            f"joining the shards of capture {plan.address} needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} are free",
            "the shards are complete, and are removed only when the whole capture is written",
            "free some space, then run the same command again: no prompt is answered again",
        )


def size_on_disk(folder: Path) -> int:
    """Bytes of a capture's answers and signal."""
    return sum(path.stat().st_size for name in ("answers.jsonl", "signal.bin") if (path := folder / name).exists())
