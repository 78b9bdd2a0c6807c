"""Work done by several processes at once, as torchrun starts them, which meet on this machine alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from engine.distill.processes import Processes
from tests.kill import PRELOADED

TIMEOUT_S = 300.0  # a crowded machine takes long to start them


def run_together(work: Callable[..., None], *arguments: Any, count: int = 2, killed: bool = False) -> None:
    """Call `work(processes, *arguments)` in `count` processes, which must all end well, or by SIGKILL if `killed`.

    As in `tests.kill`, they are forked from a server that has the heavy libraries loaded.
    """
    assert ends_of(work, *arguments, count=count) == [-signal.SIGKILL if killed else 0] * count


def ends_of(work: Callable[..., None], *arguments: Any, count: int = 2) -> list[int | None]:
    """The exit status of each of the processes; negative: the signal that ended it."""
    import torch

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = torch.get_num_threads()
    members = [
        context.Process(target=_run, args=(rank, count, port, threads, work, arguments)) for rank in range(count)
    ]
    for member in members:
        member.start()
    until = time.monotonic() + TIMEOUT_S
    for member in members:
        member.join(timeout=max(0.1, until - time.monotonic()))
    late = [member for member in members if member.is_alive()]
    for member in late:
        member.kill()
    assert not late, f"{len(late)} of {count} processes hang"
    return [member.exitcode for member in members]


def _run(rank: int, count: int, port: int, threads: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    from engine.distill.launching import launched

    torch.set_num_threads(threads)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update({**where, "RANK": str(rank), "WORLD_SIZE": str(count)})

    def connected(processes: Processes) -> None:
        processes.connect(torch.device("cpu"))
        work(processes, *arguments)

    with launched() as processes:
        connected(processes)
