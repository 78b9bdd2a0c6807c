"""A study whose command, worker and job are killed at once: called again it goes on, and ends as one left alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_study_that_is_killed_ends_as_one_left_alone():
    sizes = ["--kills", "3", "--prompts", "12", "--epochs", "2"]
    result = subprocess.run(
        [sys.executable, "benchmarks/kill_study.py", *sizes, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert found["kills"] == 3
    assert len(found["cells"]) == 6
    assert all(found["checks"].values())
