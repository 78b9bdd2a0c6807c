"""Ways between host and device: what goes there without waiting, and the one copy that comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def on_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy host values to the device; the host does not wait for a GPU."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    if device.type == "mps" and values.dtype == torch.float64:  # which knows no float64
        return values
    return values.to(device)


def at_card(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one: streams, graphs and events that name no device are of that one, not of the tensors'.

    A model may lie on another card than the first (`target.device`, `draft.device`).
    """
    if device.type != "cuda":
        return nullcontext()
    card: AbstractContextManager[Any] = torch.cuda.device(device)
    return card


def to_host(*columns: torch.Tensor) -> list[list[list[Any]]]:
    """Fetch columns [row, any] of float32 or of ids as lists, bit for bit, in one copy: the loop's only wait.

    Beside float32, ids must fit into 32 bits.
    """
    bits = list(columns)
    if any(part.dtype == torch.float32 for part in columns):
        bits = [part.view(torch.int32) if part.dtype == torch.float32 else part.to(torch.int32) for part in columns]
    together = torch.split(torch.cat(bits, dim=1).cpu(), [part.shape[1] for part in columns], dim=1)
    return [
        host.contiguous().view(torch.float32).numpy().tolist() if part.dtype == torch.float32 else host.numpy().tolist()
        for host, part in zip(together, columns, strict=True)
    ]


class Stopwatch:
    """Times of the parts of a round, without waiting for a GPU between them.

    A GPU notes the times itself and they are read after the host has waited for it anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._began = time.perf_counter()
        self._marks: list[Any] = [self._mark()]

    def mark(self) -> None:
        """End a part here."""
        self._marks.append(self._mark())

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self) -> tuple[float, ...]:
        """Seconds of each part, and of the rest up to now, in which the host has waited for the device."""
        total = time.perf_counter() - self._began
        pairs: Sequence[tuple[Any, Any]] = list(zip(self._marks, self._marks[1:], strict=False))
        parts = [a.elapsed_time(b) / 1000 if self._on_gpu else b - a for a, b in pairs]
        return (*parts, max(0.0, total - sum(parts)))
