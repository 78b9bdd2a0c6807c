"""Steps of a few tokens a row that are recorded once for each shape and replayed: on a GPU, as CUDA graphs.

A forward of a small model is hundreds of kernels, and to launch them takes longer than they run. A graph launches them
together. It needs the same addresses and shapes each time, which a cache of slots has: the number of rows and of slots
that a step attends to are rounded up to one of a few. On a CPU the same functions are called plainly.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.decode.device import at_card
from engine.decode.slots import SlotCache

WIDEST = 32  # tokens of a row: longer pieces are read too rarely to be recorded
_WARM_UPS = 2  # before a recording: what libraries allocate at first use must not become part of it
_FEWEST_SLOTS = 256
_log = logging.getLogger(__name__)

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From ids [row, width] and the tokens before them [row] to hidden states [row, width, size]."""


def rounded(count: int, fewest: int = 1) -> int:
    """The next of `fewest` times 1, 2, 3, 4, 6, 8, 12, 16, ...: few shapes, and at most half of one is empty."""
    size = fewest
    while size < count:
        half = size + size // 2
        if size > fewest and half >= count:
            return half
        size *= 2
    return size


def rounded_slots(count: int) -> int:
    """Slots that a recorded step attends to, if it needs so many."""
    return rounded(count, _FEWEST_SLOTS)


class StepGraphs:
    """Recorded steps by shape, each with the tensors that it reads and writes."""

    def __init__(self, model: Any) -> None:
        self._device = model.device
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        self._side: Any = None  # the stream on which steps are recorded
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}
        self._moves = 0
        self.weights = _weights(model)
        self.failed = False

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, step: Step, ids: torch.Tensor, starts: torch.Tensor, view: int, moves: int) -> torch.Tensor:
        """Run the step that attends to `view` slots on ids [row, width] and starts [row]: [row, width, size].

        `moves`: how often the cache has moved; what was recorded before is worth nothing.
        """
        if moves != self._moves:
            self._recorded.clear()
            self._moves = moves
        key = (*ids.shape, view)
        with at_card(self._device):
            if key not in self._recorded and not self.failed:
                self._recorded[key] = _Recorded(ids.clone(), starts.clone())
                self._record(key, step)
            if self.failed:
                return step(ids, starts)
            return self._recorded[key].replay(ids, starts)

    def _record(self, key: tuple[int, int, int], step: Step) -> None:
        if self._side is None and self._device.type == "cuda":
            # One for all recordings: of every stream that it has met cuBLAS keeps some memory, 32 MB on an H100.
            self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        recorded = self._recorded[key]
        try:
            recorded.record(step, self._pool, self._device, self._side)
        except torch.OutOfMemoryError:
            del self._recorded[key]  # or the next runner of the model would replay what was never recorded
            raise
        except Exception as error:  # a forward that waits for the device, or allocates as it likes
            self.failed = True
            self._recorded.clear()
            _log.warning("decoding without CUDA graphs: %s: %s", type(error).__name__, str(error).partition("\n")[0])


def _weights(model: Any) -> tuple[Any, ...]:
    """Where a model's weights lie, and in which mode it is: what a recording depends on."""
    return (model.training, *(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())))


# Decoding prompt after prompt makes a runner each time; what was recorded is worth more than the memory it holds.
_left: weakref.WeakKeyDictionary[Any, list[tuple[SlotCache, StepGraphs]]] = weakref.WeakKeyDictionary()
_MOST_LEFT, _MOST_LEFT_BYTES = 2, 2**30  # a target may draft for itself


def leave(model: Any, cache: SlotCache, graphs: StepGraphs) -> None:
    """Keep a cache and what was recorded on it for the next runner of the model."""
    left = _left.setdefault(model, [])
    if len(left) < _MOST_LEFT and cache.bytes <= _MOST_LEFT_BYTES:
        left.append((cache, graphs))


def taken_over(model: Any) -> tuple[SlotCache, StepGraphs] | None:
    """A cache that an earlier runner of the model has left, emptied, with what was recorded on it."""
    while left := _left.get(model):
        cache, graphs = left.pop()
        if graphs.weights == _weights(model):
            cache.lengths = []
            return cache, graphs
    return None


class _Recorded:
    """One step with its own inputs and output."""

    def __init__(self, ids: torch.Tensor, starts: torch.Tensor) -> None:
        self.ids, self.starts = ids, starts
        self.hidden = torch.zeros(0)
        self._again: Callable[[], Any] = lambda: None

    def record(self, step: Step, pool: Any, device: torch.device, side: Any) -> None:
        """Record the step on its device, which must be the current one, on the stream `side`."""

        def run() -> None:
            self.hidden = step(self.ids, self.starts)

        if device.type != "cuda":
            self._again = run
            return
        main = torch.cuda.current_stream(device)
        side.wait_stream(main)
        graph = torch.cuda.CUDAGraph()
        # The stream is entered out here, too: where a recording fails, torch's own context does not leave it again, and
        # what follows would run beside the copies that other threads make.
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):  # they write the same tokens into the same slots
                run()
            # Other threads, such as one that writes a capture, may use the device meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                run()
        main.wait_stream(side)
        self._again = graph.replay

    def replay(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        self.ids.copy_(ids)
        self.starts.copy_(starts)
        self._again()
        return self.hidden.clone()  # the next replay of any step writes over it


@contextmanager
def planless_attention(device: torch.device) -> Iterator[None]:
    """On a GPU without cuDNN's attention, which plans for every new shape: a growing cache waits for the planner."""
    if device.type != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield
