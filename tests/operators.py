"""Operators of torch that are called, counted: on a GPU each is a kernel or more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_VIEWS = {"alias", "as_strided", "detach", "expand", "select", "slice", "split_with_sizes", "squeeze", "t", "transpose"}
_VIEWS |= {"split", "unsqueeze", "unbind", "view", "_unsafe_view"}


class Operators(TorchDispatchMode):
    """Counts the operators that are called inside, by name, but for those that only view a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name not in _VIEWS:
            self.counts[name] += 1
        called: Callable[..., Any] = function
        return called(*args, **(kwargs or {}))
