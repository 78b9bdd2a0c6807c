"""Becoming one of the processes of a training that a launcher has started, and leaving them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch

from engine.config.schema import ModelSpec
from engine.distill.processes import ALONE, Processes
from engine.errors import DraftbenchError, first_line
from engine.ranks import Launch

_MEETING_S = 300.0  # for all processes to start; loading Python and torch from a slow disk takes a minute


@contextlib.contextmanager
def launched() -> Iterator[Processes]:
    """The processes that a launcher has started, of which this is one; this one alone without a launcher.

    Any other process than the first ends as the first one does, unless it fails by itself.
    """
    launch = Launch.of(os.environ)
    if launch is None:
        yield ALONE
        return
    processes = _meet(launch)
    raised: BaseException | None = None
    try:
        yield processes
    except BaseException as error:
        raised = error
        if processes.first:
            raise
    finally:
        status = None if processes.first else processes.end_with_first(raised)
        processes.leave(raised)
    if status is not None:
        raise SystemExit(status)
    if raised is not None:
        raise raised


def _meet(launch: Launch) -> Processes:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_MEETING_S)))
    except (RuntimeError, ValueError) as error:
        raise DraftbenchError(
            f"process {launch.rank + 1} of {launch.count} could not meet the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '')}: {first_line(error)}",
            "the launcher names where the processes of a training meet",
            "start all of them with the same address and count, as `torchrun` does",
        ) from None
    store.set_timeout(timedelta(seconds=_MEETING_S))
    return Processes(launch.rank, launch.count, PrefixStore("draftbench", store))


def use_own_card(target: ModelSpec) -> None:
    """Let this process compute on a GPU of its own, where a launcher has started several.

    Raises DraftbenchError if there are fewer GPUs than processes on this machine, or all would take the same ones.
    """
    launch, name = Launch.of(os.environ), target.device
    spread = "device_map" if target.device_map else "tensor_parallel" if target.tensor_parallel > 1 else ""
    if launch is not None and spread:
        raise DraftbenchError(
            f"target.{spread} is set, and {launch.count} processes were started",
            "each process of a training loads the target, and all would spread it over the same cards",
            "start one process, or leave the target on one card for each",
        )
    if launch is None or not torch.cuda.is_available() or name not in ("auto", "cuda"):
        if launch is not None and torch.device("cpu" if name == "auto" else name).index is not None:
            raise DraftbenchError(
                f"target.device is {name} for all {launch.count} processes",
                "each process of a training computes on a GPU of its own",
                "set target.device: auto",
            )
        return
    if launch.on_machine > torch.cuda.device_count():
        raise DraftbenchError(
            f"{launch.on_machine} processes were started on a machine with {torch.cuda.device_count()} GPUs",
            "each process of a training computes on a GPU of its own",
            "start as many processes as there are GPUs, or set target.device: cpu",
        )
    torch.cuda.set_device(launch.local_rank)
