"""One processor thread for the tiny tensors of unit tests: with more, the threads wait for each other most of the time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    torch = sys.modules.get("torch")  # tests of what needs no torch do not wait for it to load
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)
