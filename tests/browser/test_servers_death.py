"""Runs do not depend on the server, and the page tells the truth about a run whose process is gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from engine.jobs import queue
from engine.paths import Home
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from tests.browser import harness
from workbench.shared.pages import link

pytestmark = pytest.mark.slow
TELLS_WITHIN_S = 15


def running(run: RunFolder, seconds: float = 120) -> int:
    """Wait until the run is at work; its process."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = run.status()
        if status.state == "running":
            return int(status.pid)
        assert status.state == "queued", status
        time.sleep(0.3)
    raise AssertionError("the run did not begin")


def test_a_run_outlives_the_server_and_its_own_death_is_reported(
    home: Path, real_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DRAFTBENCH_HOME", str(home))
    server = harness.start(home, tmp_path / "server.log", samples=False)
    try:
        run = queue.submit(Home(home), read_recipe(Home(home), "recipes/smoke.yaml", [], skip_bad=False))
        process = running(run)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        time.sleep(3)
        assert run.status().state == "running"
        server = harness.start(home, tmp_path / "server.log", samples=False)
        with harness.browser() as visitor:
            page = visitor.page()
            page.goto(server.url + link("run", run=run.id))
            page.get_by_text("in progress").wait_for()
            os.kill(process, signal.SIGKILL)
            page.get_by_text("its process has ended").wait_for(timeout=TELLS_WITHIN_S * 1000)
            page.get_by_role("button", name="Resume").wait_for(timeout=5000)
    finally:
        server.stop()
