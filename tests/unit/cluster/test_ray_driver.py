"""The driver where no cluster answers; tests/slow/test_ray_study.py has it with one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

from engine.cluster import ray_driver
from engine.cluster.ray_driver import Driver
from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.jobs import queue
from engine.paths import Home

SAMPLE = "sample_data/prompts/general/heldout.jsonl"
ADDRESS = "ray-gcs://head:6379"


def test_a_run_at_work_waits_while_the_clusters_head_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = Home(tmp_path)
    (run,) = queue.enqueue(home, [parse_recipe({"prompts": {"train": SAMPLE, "heldout": SAMPLE}})], ADDRESS)
    run.set_status(state="running", host="another-machine", pid=4242, pid_started=1.0)
    states: list[str] = []

    def refuse(address: str) -> None:
        states.append(run.status().state)
        if len(states) == 3:
            run.set_status(state="cancelled")
        raise DraftbenchError(f"nothing answers at {address}")

    monkeypatch.setattr(ray_driver, "connect", refuse)
    monkeypatch.setattr(ray_driver.time, "sleep", lambda seconds: None)
    with pytest.raises(DraftbenchError, match="nothing answers"):  # once nothing waits any more
        Driver(home, ADDRESS, "token").work_off()
    assert states == ["queued"] * 3
    said = (run.path / "log.txt").read_text()
    assert said.count("its driver is gone") == said.count("; the run waits") == 1
