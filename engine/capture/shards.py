"""A large capture in shards: parts of its prompts that several processes answer, joined into the one capture.

    captures/<address>/shards/<number>-of-<count>/      a capture of a part of the prompts, with its own lock

A shard is filled by the code that fills a capture, so it resumes, checks its bytes and copies answers that are there
already, also those of shards of another count. The joined capture has the address, the answers and the signal of one
that a single process makes with batch size 1: the order is that of the prompts. A larger batch size rounds as it does
without shards, by what is answered side by side, and its order in the file is no longer that in which answers ended.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.capture.adopt import SHARDS, as_signal
from engine.capture.answer import Answer
from engine.capture.answered import is_complete
from engine.capture.plan import DONE, CapturePlan
from engine.capture.store import Capture, GrowingCapture, completed, exclusive, refuse_if_too_large, size_on_disk
from engine.errors import DraftbenchError
from engine.fileio import disk_errors, json_object
from engine.progress import SILENT, Progress
from engine.records.capture import CaptureCounts, LastSession, ServedAnswers

_OWN_KEYS = {"id", "group", "prompt_ids", "token_ids", "finish_reason", "offset", "crc32"}  # of an answer's line

FillAll = Callable[[Sequence[CapturePlan]], None]
"""Answers the prompts of all these shards, or raises DraftbenchError after it has done what it could."""


def cut(prompts: int, count: int) -> list[range]:
    """Cut so many prompts into at most `count` contiguous parts, none empty, whose sizes differ by one at most."""
    count = max(1, min(count, prompts))
    ends = [number * prompts // count for number in range(count + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(ends)]


def shards_of(plan: CapturePlan, count: int) -> list[CapturePlan]:
    """The plans of a capture's shards, in the order of its prompts."""
    parts = cut(len(plan.prompts), count)
    return [
        plan.part(part, plan.folder / SHARDS / f"{number}-of-{len(parts)}")
        for number, part in enumerate(parts, start=1)
    ]


def make_in_shards(
    plan: CapturePlan,
    count: int,
    fill_all: FillAll,
    *,
    progress: Progress = SILENT,
    server_counts: Callable[[CapturePlan], ServedAnswers] | None = None,
) -> Capture:
    """Return the capture of a plan, after `fill_all` has filled what is missing of its shards and they were joined.

    Several processes may do so at once, also on machines that share the folder. `server_counts` counts the answers of a
    server in the joined capture. Raises DraftbenchError if a shard could not be filled, or the disk may not hold the
    shards and the joined capture together; the same call then does the rest. Raises Cancelled when the progress says
    so.
    """
    shards = shards_of(plan, count)
    if not plan.is_finished:
        with disk_errors(plan.folder):
            plan.folder.mkdir(parents=True, exist_ok=True)
            wait_for_whole(plan, progress)
            _refuse_if_too_large(plan, shards)
            fill_all([shard for shard in shards if not shard.is_finished])
    return completed(plan, lambda: _join(plan, shards, progress, server_counts), progress)


def fill_one_by_one(fill: Callable[[CapturePlan], object], progress: Progress = SILENT) -> FillAll:
    """Fill shards one after another by `fill`: first those that no other process fills, then those that it gave up.

    A shard that fails does not stop the others.
    """

    def fill_all(shards: Sequence[CapturePlan]) -> None:
        failed: list[DraftbenchError] = []
        for waits in (False, True):
            for shard in shards:
                if shard.is_finished or (not waits and _is_busy(shard.folder)):
                    continue
                try:
                    fill_shard(shard, fill, progress)
                except DraftbenchError as error:
                    failed.append(error)
            if failed:
                raise failed_shards([error.as_dict() for error in failed], len(shards))

    return fill_all


def fill_shard(shard: CapturePlan, fill: Callable[[CapturePlan], object], progress: Progress = SILENT) -> None:
    """Fill one shard by `fill`, unless the whole capture is finished, before or meanwhile."""
    assert shard.whole is not None
    with exclusive(shard.whole, progress, f"capture {shard.whole.name}"):
        pass  # who makes the whole of it alone copies what the shards hold
    if shard.is_finished:
        return
    progress.note(f"shard {shard.folder.name}: {len(shard.prompts)} prompts")
    try:
        fill(shard)
    except (DraftbenchError, FileNotFoundError):  # its folder is removed once the whole is joined
        if not (shard.whole / DONE).exists():
            raise


def failed_shards(errors: Sequence[dict[str, str]], count: int) -> DraftbenchError:
    """The error of shards that failed: the words of the last one."""
    last = errors[-1]
    why = f"{last['why']}; " if last.get("why") else ""
    return DraftbenchError(
        f"{len(errors)} of {count} shards failed: {last['what']}",
        f"{why}finished answers and the other shards are kept",
        last.get("fix") or "the same command continues with the rest",
    )


def wait_for_whole(plan: CapturePlan, progress: Progress) -> None:
    """Wait until no process makes the whole of a capture by itself."""
    with exclusive(plan.folder, progress, f"capture {plan.address}"):
        pass


def _is_busy(folder: Path) -> bool:
    """Whether another process fills a shard at this moment."""
    if not folder.exists():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        return True
    lock.release()
    return False


def _refuse_if_too_large(plan: CapturePlan, shards: Sequence[CapturePlan]) -> None:
    """Refuse a capture that may not fit: what its shards lack, and all of it once more for the join."""
    missing = sum(len(shard.prompts) for shard in shards if not shard.is_finished)
    refuse_if_too_large(plan, missing + len(plan.prompts))


def _join(
    plan: CapturePlan,
    shards: Sequence[CapturePlan],
    progress: Progress,
    server_counts: Callable[[CapturePlan], ServedAnswers] | None,
) -> None:
    """Write the capture from its finished shards, an answer at a time. The caller holds the capture's lock."""
    counts = [_counts(shard) for shard in shards]
    growing = GrowingCapture(plan, progress, joins=sum(size_on_disk(shard.folder) for shard in shards))
    indices = iter(growing.missing)
    done = len(plan.prompts) - len(growing.missing)
    for shard in shards:
        kept, done = min(done, len(shard.prompts)), max(0, done - len(shard.prompts))
        with contextlib.closing(_answers(shard, kept)) as answers:
            for answer in answers:
                growing.add(next(indices), answer, **answer.beside)
                progress.stop_if_asked()
    for name in ("answers.jsonl", "signal.bin"):
        _to_disk(plan.folder / name)
    sessions = [one.last_session for one in counts]
    last = LastSession(
        tokens=sum(one.tokens for one in sessions), seconds=round(sum(one.seconds for one in sessions), 3)
    )
    growing.finish(None if server_counts is None else server_counts(plan), last)


def _counts(shard: CapturePlan) -> CaptureCounts:
    counts = CaptureCounts.read(shard.folder)
    if counts is None:
        raise _damaged(shard, "is not finished")
    return counts


def _answers(shard: CapturePlan, begin: int) -> Generator[Answer]:
    """Read a finished shard's answers from prompt `begin` on, in the order of its prompts; each is checked."""
    places = _line_places(shard.folder / "answers.jsonl")
    with open(shard.folder / "answers.jsonl", "rb") as lines, open(shard.folder / "signal.bin", "rb") as signal:
        for index in range(begin, len(shard.prompts)):
            prompt_id = shard.prompts[index].id
            if prompt_id not in places:
                raise _damaged(shard, f"has no answer to {prompt_id!r}")
            lines.seek(places[prompt_id])
            line = json_object(lines.readline())
            assert line is not None  # it was read for its place
            signal.seek(line["offset"])
            answer = checked_answer(index, line, signal.read(shard.signal.bytes_per_token * len(line["token_ids"])))
            if answer is None:
                raise _damaged(shard, f"holds other bytes for {prompt_id!r} than were written")
            yield answer


def checked_answer(index: int, line: Mapping[str, Any], raw: bytes) -> Answer | None:
    """The answer of a line of `answers.jsonl` with the bytes of its signal; None if they are not those it was for."""
    if zlib.crc32(raw) != line["crc32"]:
        return None
    beside = {key: value for key, value in line.items() if key not in _OWN_KEYS}
    return Answer(index, line["token_ids"], line["finish_reason"], as_signal(raw), beside)


def _line_places(path: Path) -> dict[str, int]:
    """Prompt id -> where its line begins in a file of answers, bytes."""
    places, begin = dict[str, int](), 0
    with open(path, "rb") as file:
        for raw in file:
            line = json_object(raw)
            if line is not None and is_complete(line):
                places[line["id"]] = begin
            begin += len(raw)
    return places


def _damaged(shard: CapturePlan, what: str) -> DraftbenchError:
    """The error of a shard that is not whole; it no longer counts as finished, so that the next call completes it."""
    (shard.folder / DONE).unlink(missing_ok=True)
    return DraftbenchError(
        f"shard {shard.folder.name} of the capture in {shard.whole} {what}",
        "it was damaged after it was written, so the capture cannot be joined",
        "run the same command again: it answers what the shard has lost",
    )


def _to_disk(path: Path) -> None:
    """Have a file's bytes on the disk: after a loss of power the shards are gone, so the joined bytes must not be."""
    with disk_errors(path), open(path, "ab") as file:
        os.fsync(file.fileno())
