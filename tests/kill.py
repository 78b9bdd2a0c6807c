"""Killing a process in the middle of its work, as a power cut or the kernel's memory killer would."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

PRELOADED = ["engine.distill.trainer", "transformers.models.llama", "tests.tiny_pair"]  # what such work needs


def run_until_killed(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` in a process of its own that must end by SIGKILL, as `kill_myself` does.

    The server from which these processes are forked loads the heavy libraries once and
    computes nothing, so a fork of it is safe and quick. The number of threads is that of
    the caller, since sums taken in another order may differ in the last bit.
    """
    import torch

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(torch.get_num_threads(), work, arguments))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL, f"the process ended with {process.exitcode} instead of being killed"


def _run(threads: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(threads)
    work(*arguments)


PRELOADED = ["engine.distill.trainer", "transformers.models.llama", "tests.tiny_pair"]


def kill_myself() -> None:
    """End this process at once: no handler, no `finally`, no flushing of buffers."""
    os.kill(os.getpid(), signal.SIGKILL)
