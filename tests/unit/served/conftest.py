"""A chat server on this machine for each test; what it answers is set by the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chat_server import Server, chat_server
from tests.unit.served.asking import Clock


@pytest.fixture
def server() -> Iterator[Server]:
    with chat_server() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()
