"""A real browser and a real server. Without Chromium these tests are skipped, or fail if a browser is required."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.paths import cache_dir
from tests.browser import harness

HERE = Path(__file__).parent
REAL_CACHE = cache_dir()  # before `own_folders` points it elsewhere: the embedded model is fetched once for all tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session", autouse=True)
def a_browser() -> None:
    """Skip with an explanation, or fail if a browser is required (`.ci/run`)."""
    if harness.chromium() is None:
        message = "no chromium on this machine: install it to test the pages in a real browser"
        if os.environ.get("DRAFTBENCH_NEEDS_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def real_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache with the embedded model in it."""
    monkeypatch.setenv("DRAFTBENCH_CACHE", str(REAL_CACHE))
    return REAL_CACHE


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of this test alone; whatever its workbench started is ended."""
    place = tmp_path / "bench-home"
    yield place
    harness.end_jobs(place)


@pytest.fixture
def server(home: Path, real_cache: Path, tmp_path: Path) -> Iterator[harness.Server]:
    """A workbench with the sample runs."""
    running = harness.start(home, tmp_path / "server.log")
    yield running
    running.stop()
