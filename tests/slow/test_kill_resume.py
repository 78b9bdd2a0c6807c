"""A run that is killed in each of its phases resumes each time and ends like an uninterrupted one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_run_killed_in_every_phase_ends_like_an_uninterrupted_one():
    sizes = ["--kills", "3", "--prompts", "12", "--steps", "60"]
    result = subprocess.run(
        [sys.executable, "benchmarks/kill_resume.py", *sizes, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert all(figures["hits"][phase] >= 1 for phase in ("capture", "train", "index"))
    assert figures["checks"]
    assert all(figures["checks"].values())
