"""What forward passes write, in host memory: copied there while the device goes on with the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch


class Steps:
    """Ids and signal of consecutive forward passes over the same rows.

    On a GPU the memory is pinned and `add` does not wait: what it returns does.
    """

    def __init__(self, steps: int, rows: int, bytes_per_token: int, device: torch.device) -> None:
        """`steps`: forward passes that fit in."""
        pinned = device.type == "cuda"
        self.ids = torch.empty(steps, rows, dtype=torch.long, pin_memory=pinned)  # [step, row]
        self.signal = torch.empty(steps, rows, bytes_per_token, dtype=torch.uint8, pin_memory=pinned)
        self.used = 0

    @property
    def full(self) -> bool:
        return self.used == len(self.ids)

    def add(self, ids: torch.Tensor, signal: torch.Tensor) -> Callable[[], None]:
        """Copy a pass into the next step; return what waits until it is there.

        ids: [row], int64, signal: [row, bytes_per_token], uint8, on the device.
        """
        self.ids[self.used].copy_(ids, non_blocking=True)
        self.signal[self.used].copy_(signal, non_blocking=True)
        self.used += 1
        if ids.device.type != "cuda":
            return _no_wait
        written: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        written.record(torch.cuda.current_stream(ids.device))
        return cast(Callable[[], None], written.synchronize)


def _no_wait() -> None:
    """For a copy that is there already."""
