"""The processes of one training, as `torchrun` starts them: which one this is, and what they tell each other.

The first process (rank 0) owns the run; the others compute their share of each step. Sums of gradients travel through
torch.distributed, by NCCL between GPUs and by gloo elsewhere. Words travel through the store at which the processes
met: waiting there lasts as long as the first one works, takes no processor time, and ends when the first one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from engine.errors import Cancelled, DraftbenchError, first_line

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# Longest wait for another process inside a sum: far above any step, as what takes long is waited for at the store.
_SUM_TIMEOUT = timedelta(minutes=30)
_LOOK_EVERY_S = 0.05
_LEAVING_S = 10.0  # that the first process waits, at its end, for the others to have read how it ended
_REASON_S = 2.0  # that a process waits for the reason why another one is gone
_BUCKET_VALUES = 2**24  # gradients summed in one message: 67 MB in float32
_STATUS = {"DraftbenchError": 2, "Cancelled": 130, "KeyboardInterrupt": 130}  # as the command line ends
_RESUME = "`draftbench run --resume RUN` continues from the last checkpoint, on any number of processes"

Result = TypeVar("Result")


class FirstEndedError(Exception):
    """The first process has ended, with an exit status, while this one waited for it; it has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the first process ended with status {status}")
        self.status = status


class Processes:
    """The processes of a training, seen from one of them. One alone sends nothing and waits for nobody.

    All must call the same methods in the same order, except those said to be for one of them. A process that is gone
    makes them raise DraftbenchError in the others, or FirstEndedError if it is the first.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: Store | None = None) -> None:
        self.rank, self.count, self._store = rank, count, store
        self._turns = 0
        self._cut_off: DraftbenchError | None = None  # what a lost connection means, while it has no other reason

    @property
    def first(self) -> bool:
        """Whether this is the process that owns the run."""
        return self.rank == 0

    # ---- words, through the store ---------------------------------------------------------------

    def from_first(self, say: Callable[[], str]) -> str:
        """What the first process says, which alone works it out, however long that takes."""
        if self._store is None:
            return say()
        self._turns += 1
        key = f"turn/{self._turns}"
        if self.first:
            text = say()
            with self._talking():
                self._store.set(key, text)
            return text
        self._wait_for(key)
        with self._talking():
            return str(self._store.get(key).decode())

    def first_alone(self, work: Callable[[], Any]) -> None:
        """Work for the first process alone, however long it takes; the others wait."""

        def silently() -> str:
            work()
            return ""

        self.from_first(silently)

    def first_then_all(self, work: Callable[[], Result]) -> Result:
        """Work that leaves something on disk: done by the first process, then by the others, who find it there."""
        made: list[Result] = []
        self.first_alone(lambda: made.append(work()))
        return made[0] if made else work()

    def failure(self, *, aside: bool = False) -> DraftbenchError | None:
        """Why another process has failed, as it said itself or as the lost connection shows; None if none has.

        One that ended because it was asked to stop has not failed. `aside`: another thread asks, over a connection of
        its own, since this process may wait at the other one for the process that has failed.
        """
        with contextlib.suppress(RuntimeError):
            store: Any = self._store  # torch's stubs lack `clone`
            if store is not None and aside:
                store = store.clone()
            return (None if store is None else self._failure(store, stops=False)) or self._cut_off
        return self._cut_off

    def _failure(self, store: Store, *, stops: bool = True) -> DraftbenchError | None:
        if not store.check(["failed"]):
            return None
        note = json.loads(store.get("failed"))
        if note["stopped"] and not stops:
            return None
        return DraftbenchError(
            f"process {note['rank'] + 1} of {self.count} has ended: {note['what']}",
            note["why"] or "a step needs the share of every process",
            note["fix"] or _RESUME,
        )

    def _wait_for(self, key: str) -> None:
        with self._talking():
            assert self._store is not None
            while not self._store.check([key]):
                self._leave_with_first()
                time.sleep(_LOOK_EVERY_S)

    def _leave_with_first(self) -> None:
        """Raise FirstEndedError if the first process has ended."""
        status = self._end_of_first()
        if status is not None:
            raise FirstEndedError(status)

    def _end_of_first(self) -> int | None:
        assert self._store is not None
        return int(self._store.get("ended")) if self._store.check(["ended"]) else None

    # ---- numbers, through torch.distributed -----------------------------------------------------

    def connect(self, device: torch.device) -> None:
        """Open the connections through which tensors travel. `device`: where this process trains."""
        if self._store is None:
            return
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        if device.type not in ("cpu", "cuda"):
            raise DraftbenchError(
                f"several processes cannot train on {device.type}",
                "torch sends tensors between processes on CPUs and CUDA GPUs alone",
                "set target.device: cpu, or start one process",
            )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with self._talking():
            dist.init_process_group(
                backend,
                store=PrefixStore("tensors", self._store),
                rank=self.rank,
                world_size=self.count,
                timeout=_SUM_TIMEOUT,
            )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of the processes."""
        if self.count == 1:
            return flag
        value = torch.tensor([flag], dtype=torch.uint8)
        self._reduce(value, "MAX")
        return bool(value)

    def add_up(self, parameters: Sequence[torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """Sum the gradients of the parameters over all processes, in place, and return the sum of the losses.

        A parameter without gradient anywhere keeps none, as in one process, where the optimiser then leaves it alone.
        Every process ends with the same bits. loss: a scalar on the device of the gradients.
        """
        if self.count == 1:
            return loss
        learnt = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        self._reduce(learnt, "MAX")
        total, tensors = loss.reshape(1).clone(), []
        for parameter in (p for p, anywhere in zip(parameters, learnt.tolist(), strict=True) if anywhere):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            tensors.append(parameter.grad)
        for bucket in _buckets([total, *tensors]):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._reduce(flat, "SUM")
            for tensor, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))
        return total[0]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            value = value.clone()
            self._reduce(value, "SUM")
        return value

    def as_first(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give tensors the values that they have in the first process."""
        if self.count == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            with self._talking():
                dist.broadcast(tensor.detach(), 0)

    def interleaved(self, own: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The results of dealt items, on the CPU, in the order in which these were before they were dealt."""
        if self.count == 1:
            return list(own)
        shares: list[Any] = [None] * self.count
        import torch.distributed as dist

        with self._talking():
            dist.all_gather_object(shares, [tensor.cpu() for tensor in own])
        rounds = range(max(len(share) for share in shares))
        return list(chain.from_iterable([s[i] for s in shares if i < len(s)] for i in rounds))

    def handed_out(self, deal: Callable[[], Sequence[Result]]) -> Result:
        """This process's part of what the first one has made, a part for each; the first alone calls `deal`."""
        if self.count == 1:
            return deal()[0]
        import torch.distributed as dist

        mine: list[Any] = [None]
        parts = list(deal()) if self.first else None
        with self._talking():
            dist.scatter_object_list(mine, parts, 0)
        part: Result = mine[0]
        return part

    def check_same(self, facts: dict[str, str]) -> None:
        """Raise DraftbenchError, in all processes, unless each fact is the same everywhere."""
        if self.count == 1:
            return
        import torch.distributed as dist

        seen: list[Any] = [None] * self.count
        with self._talking():
            dist.all_gather_object(seen, facts)
        for rank, other in enumerate(seen):
            for name, value in seen[0].items():
                if other.get(name) != value:
                    raise DraftbenchError(
                        f"{name} is {value} in process 1 and {other.get(name)} in process {rank + 1}",
                        "the processes of one training would compute shares of different things",
                        "give every machine the same files and the same installation",
                    )

    def _reduce(self, tensor: torch.Tensor, operation: str) -> None:
        import torch.distributed as dist

        with self._talking():
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Say what it means when another process does not answer."""
        try:
            yield
        except RuntimeError as error:  # of a closed connection or a timeout, by whatever backend
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> Exception:
        """The reason that the other process may just be about to give, else what the connection says.

        The launcher stops this process meanwhile, which must not make the failure a stop that somebody wished.
        """
        self._cut_off = DraftbenchError(
            f"process {self.rank + 1} of {self.count} lost another one: {first_line(error)}",
            "it was killed, or its machine or the network failed; a step needs the share of every process",
            _RESUME,
        )
        until = time.monotonic() + _REASON_S
        assert self._store is not None
        with contextlib.suppress(RuntimeError):  # the store is gone as well
            while time.monotonic() < until:
                status = None if self.first else self._end_of_first()
                if status is not None:
                    return FirstEndedError(status)
                failure = self._failure(self._store)
                if failure is not None:
                    return failure
                time.sleep(_LOOK_EVERY_S)
        return self._cut_off

    # ---- the end --------------------------------------------------------------------------------

    def leave(self, error: BaseException | None) -> None:
        """Let the others know how this process ends, and wait until they can have seen it."""
        if self._store is None:
            return
        import torch.distributed as dist

        with contextlib.suppress(RuntimeError):
            if self.first:
                status = 0 if error is None else _STATUS.get(type(error).__name__, 1)
                self._store.set("ended", str(status))
            else:
                self._store.add("left", 1)
        world = dist.group.WORLD
        with contextlib.suppress(RuntimeError):
            if world is not None:
                if error is not None:
                    world.abort()
                del world  # with the last reference its connections close, and the others wait in no sum in vain
                dist.destroy_process_group()
        with contextlib.suppress(RuntimeError):
            if self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                self._wait_for_others()

    def _wait_for_others(self) -> None:
        """The store lives in this process, and the others still read it."""
        assert self._store is not None
        until = time.monotonic() + _LEAVING_S
        while self._store.add("left", 0) < self.count - 1 and time.monotonic() < until:
            time.sleep(_LOOK_EVERY_S)

    def end_with_first(self, error: BaseException | None) -> int | None:
        """In another process than the first: the status that the first one ends with, waited for.

        None if this process failed by itself, of which the first one is informed. 1 if the first one cannot be asked.
        """
        assert self._store is not None
        if isinstance(error, FirstEndedError):
            return error.status
        with contextlib.suppress(RuntimeError):
            until = time.monotonic() + _REASON_S
            while error is None or time.monotonic() < until:
                status = self._end_of_first()
                if status is not None:
                    return status
                time.sleep(_LOOK_EVERY_S)
            stopped = isinstance(error, (Cancelled, KeyboardInterrupt))
            what = "it was asked to stop" if stopped else repr(error)[:300]
            explained = error if isinstance(error, DraftbenchError) else DraftbenchError(what)
            if not self._store.check(["failed"]):
                note = {"rank": self.rank, "stopped": stopped, **explained.as_dict()}
                self._store.set("failed", json.dumps(note))
        return 1 if error is None else None


ALONE = Processes()


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors in their order, together up to `_BUCKET_VALUES` values at a time."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET_VALUES:
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket
