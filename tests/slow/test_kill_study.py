"""A study whose command, worker and job are killed at once continues when called again, with the same results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_study_that_is_killed_ends_like_an_undisturbed_one():
    sizes = ["--kills", "3", "--prompts", "12", "--epochs", "4", "--two-cells"]
    result = subprocess.run(
        [sys.executable, "benchmarks/kill_study.py", *sizes, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["kills"] == 3
    assert len(figures["cells"]) == 2
    assert all(figures["checks"].values())
