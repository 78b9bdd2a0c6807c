"""Tensor parallelism: several processes, each with a part of every layer of the target, that make the same calls.

The process of the run leads. It starts the others itself, one for each card, and does everything but the target's
forward passes alone: drafts, captures and files are its own. A function that is `mirrored` is called in all of them,
with the same arguments, whenever its first argument is a split model or something made of one (a runner with its
cache): so each process keeps its own part of the keys and values, and the sums over the parts meet in the layers, where
Transformers' plan has put them. The others end when this process does, however it does.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from engine.errors import DraftbenchError, first_line
from engine.paths import PROJECT_ROOT

_HANDLE = "_team_handle"  # attribute of what all processes have: its number
_WAITS = datetime.timedelta(days=7)  # a draft trains for hours while the target rests
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # the processes are on this machine alone
_FIX = "look at the messages above; if memory did not suffice, lower capture.batch_size or use more cards"

F = TypeVar("F", bound=Callable[..., Any])


def mirrored(function: F, *, keep: bool = False) -> F:
    """Make a function whose first argument may be split run in all processes of its team.

    `keep`: what it returns is split as well, and stays in all of them as long as it is used here. Everything else that
    it is given is copied to them, tensors included, so it should be small; a model that only this process has is
    refused.
    """

    @functools.wraps(function)
    def everywhere(split: Any, *args: Any, **more: Any) -> Any:
        if _team is None or _team.busy or _handle(split) is None:
            return function(split, *args, **more)
        return _team.call(everywhere, split, *args, keep=keep, **more)

    return cast(F, everywhere)


def is_split(model: Any) -> bool:
    """Whether a model's layers are split over the processes of a team."""
    return _handle(model) is not None


class Team:
    """The processes that hold a split model, this one being the first."""

    def __init__(self, rank: int, size: int, meeting_place: str, others: list[subprocess.Popen[bytes]]) -> None:
        """Meets the others at a file that all of them name."""
        self.rank, self.size, self.others, self.busy = rank, size, others, False
        self._kept: dict[int, Any] = {}  # of the others; here each is kept by whoever uses it
        self._count = 0
        self._gone: list[int] = []
        os.environ.update({key: value for key, value in _LOOPBACK.items() if key not in os.environ})
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(rank)
        store = dist.FileStore(meeting_place, size)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_WAITS)

    def call(self, function: Callable[..., Any], *args: Any, keep: bool = False, **more: Any) -> Any:
        """Call a function here and in the others; with `keep` its result gets a number in all of them.

        A DraftbenchError is raised by all alike, and they go on. Any other error ends the others, since they may wait
        for a sum that never comes.
        """
        gone = [self._gone.pop() for _ in range(len(self._gone))]  # the list stays: others append to it
        self._send((function, args, more, keep, gone))
        self.busy = True
        try:
            result = function(*args, **more)
        except Exception as error:
            if isinstance(error, DraftbenchError) and not self._one_has_ended():
                self._count += keep
                raise
            codes = ", ".join(str(code) for code in self._end() if code is not None)
            why = f"a process ended with status {codes}" if codes else f"{type(error).__name__}: {first_line(error)}"
            raise DraftbenchError("the processes of target.tensor_parallel cannot continue", why, _FIX) from error
        finally:
            self.busy = False
        return self._numbered(result) if keep else result

    def follow(self) -> None:
        """Make every call that the first process makes, until it ends."""
        self.busy = True  # mirrored functions are plain ones here
        while True:
            function, args, more, keep, gone = self._received()
            for number in gone:
                self._kept.pop(number, None)
            try:
                result = function(*args, **more)
            except DraftbenchError:
                self._count += keep
                continue
            if keep:
                number = self._count
                self._kept[number] = self._numbered(result)
            del result, args, more

    def _numbered(self, made: Any) -> Any:
        number = self._count
        setattr(made, _HANDLE, number)
        self._count += 1
        if self.rank == 0:
            weakref.finalize(made, self._gone.append, number)
        return made

    def _send(self, call: Any) -> None:
        words = io.BytesIO()
        _Pickler(words).dump(call)
        try:
            dist.broadcast_object_list([words.getvalue()], src=0, device=torch.device("cpu"))
        except RuntimeError as error:
            codes = ", ".join(str(code) for code in self._end() if code is not None)
            why = f"a process ended with status {codes}" if codes else first_line(error)
            raise DraftbenchError("the processes of target.tensor_parallel cannot continue", why, _FIX) from error

    def _received(self) -> Any:
        words: list[Any] = [None]
        dist.broadcast_object_list(words, src=0, device=torch.device("cpu"))
        return _Unpickler(io.BytesIO(words[0]), self._kept).load()

    def _one_has_ended(self) -> bool:
        """Whether another process has ended, or does so within a moment."""
        for _ in range(10):
            if any(process.poll() is not None for process in self.others):
                return True
            time.sleep(0.05)
        return False

    def _end(self) -> list[int | None]:
        """End the other processes; returns the exit status of those that had ended, None for the rest."""
        global _team
        codes = [process.poll() for process in self.others]
        for process in self.others:
            process.kill()
            process.wait()
        _team = None
        return codes


class _Pickler(pickle.Pickler):
    """Names what all processes have by its number, and takes tensors through main memory."""

    def persistent_id(self, obj: Any) -> int | None:
        number = _handle(obj)
        if number is None and isinstance(obj, torch.nn.Module):
            raise DraftbenchError(
                f"{type(obj).__name__} is in one process alone, and the target in several (target.tensor_parallel)",
                "Transformers' assisted generation wants both in one",
                "measure or export with a target that is whole or spread: target.device_map: auto",
            )
        return number

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.device.type != "cpu":
            return _on_this_card, (obj.cpu(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, words: io.BytesIO, kept: dict[int, Any]) -> None:
        super().__init__(words)
        self._kept = kept

    def persistent_load(self, number: int) -> Any:
        return self._kept[number]


def _on_this_card(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.device("cuda", torch.cuda.current_device()))


def _handle(thing: Any) -> int | None:
    return getattr(thing, "__dict__", {}).get(_HANDLE) if isinstance(thing, object) else None


_team: Team | None = None


def team_of(size: int) -> Team:
    """The team of this process, started at the first call. Raises DraftbenchError where there can be none."""
    global _team
    if _team is not None and _team.size == size:
        return _team
    _refuse_other_processes(size)
    folder = tempfile.mkdtemp(prefix="draftbench-team-")  # they meet there again for each new group
    meeting_place = os.path.join(folder, "meeting")
    others = [_started(rank, size, meeting_place) for rank in range(1, size)]
    atexit.register(_end_all, others, folder)
    _team = Team(0, size, meeting_place, others)
    return _team


def _refuse_other_processes(size: int) -> None:
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DraftbenchError(
            f"target.tensor_parallel: {size} cannot be used in a process that is one of several already",
            "it starts its own processes, and one process can have one such target at a time",
            "start the run without torchrun or accelerate launch, and use one number throughout",
        )
    if torch.cuda.is_available() and torch.cuda.device_count() < size:
        raise DraftbenchError(
            f"target.tensor_parallel is {size}, and {torch.cuda.device_count()} cards are visible",
            "each process computes on a card of its own",
            f"set target.tensor_parallel: {torch.cuda.device_count()}, or CUDA_VISIBLE_DEVICES",
        )


def _started(rank: int, size: int, meeting_place: str) -> subprocess.Popen[bytes]:
    """A process that follows. It reads a pipe which nobody writes: that it ends says that this process has."""
    environment = {**os.environ, "LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if not torch.cuda.is_available():
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // size))
    return subprocess.Popen(
        [sys.executable, "-m", "engine.models.team", str(rank), str(size), meeting_place],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=PROJECT_ROOT,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the first process, which stops at a safe point
    )


def _end_all(processes: list[subprocess.Popen[bytes]], folder: str) -> None:
    for process in processes:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _end_with_the_first() -> None:
    """Wait until the first process has ended, then end this one, whatever it waits for."""
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> None:
    """What a process does that follows: `python -m engine.models.team RANK SIZE MEETING_PLACE`."""
    from engine.models import team  # the module that functions are pickled by; this one is `__main__`

    # The first process decides when to stop, at a safe point; Slurm signals every process of a job.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    rank, size, meeting_place = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    team._team = team.Team(rank, size, meeting_place, [])
    team._team.follow()


if __name__ == "__main__":
    main()
