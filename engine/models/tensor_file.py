"""Write a safetensors file one tensor at a time, so that a model need not fit into memory to be converted.

The library's own `save_file` needs all tensors at once. The format is a length, a JSON header and the bytes
(https://github.com/huggingface/safetensors#format); the file is identical to the one that `save_file` would write.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import torch

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class TensorPlan:
    """Shape and dtype of a tensor that will be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


class TensorFile:
    """`with TensorFile(path, plans) as file: file.write(name, tensor)`, each planned tensor once, in any order."""

    def __init__(self, path: Path, plans: dict[str, TensorPlan]) -> None:
        self._path, self._plans = path, plans
        # wider types first, as the library does, so that every tensor is aligned
        order = sorted(plans, key=lambda name: (-plans[name].dtype.itemsize, name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._places: dict[str, int] = {}
        end = 0
        for name in order:
            plan = plans[name]
            begin, end = end, end + plan.size_bytes
            header[name] = {"dtype": _NAMES[plan.dtype], "shape": list(plan.shape), "data_offsets": [begin, end]}
            self._places[name] = begin
        raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        self._start, self._raw, self._end = 8 + len(raw), raw, end
        self._written: set[str] = set()
        self._file: IO[bytes]

    def __enter__(self) -> TensorFile:
        self._file = open(self._path, "wb")
        self._file.write(struct.pack("<Q", len(self._raw)) + self._raw)
        self._file.truncate(self._start + self._end)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if error is None and self.missing:
            raise ValueError(f"{len(self.missing)} tensors were not written, such as {self.missing[0]}")

    @property
    def missing(self) -> list[str]:
        """Names of the planned tensors that are not written yet."""
        return sorted(set(self._plans) - self._written)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write a tensor in its planned dtype. Raises ValueError for another shape or a second write."""
        plan = self._plans[name]
        if tuple(tensor.shape) != plan.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, but the model needs {list(plan.shape)}")
        if name in self._written:
            raise ValueError(f"{name} is there twice")
        raw = tensor.detach().to("cpu", plan.dtype).contiguous().flatten().view(torch.uint8)
        self._file.seek(self._start + self._places[name])
        self._file.write(raw.numpy().data)
        self._written.add(name)
