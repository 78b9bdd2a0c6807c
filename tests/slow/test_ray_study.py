"""A study on a Ray cluster that loses a node and its driver ends as one that was run alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_study_whose_node_and_driver_are_killed_ends_like_one_that_was_run_alone():
    pytest.importorskip("ray")
    sizes = ["--losses", "1", "--modes", "1", "--seeds", "2", "--prompts", "16", "--epochs", "8"]
    result = subprocess.run(
        [sys.executable, "benchmarks/ray_study.py", *sizes, "--kills", "node,driver", "--no-time", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert len(figures["kills"]) == 2
    assert len(figures["cells"]) == 2
    assert all(figures["checks"].values())
