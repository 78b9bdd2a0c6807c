"""Processes that write and read the index at once: no error, no half run, no lost row."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_writers_and_readers_side_by_side():
    result = subprocess.run(
        [sys.executable, "benchmarks/bench_store.py", "--writers", "2", "--readers", "3", "--seconds", "6"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "errors: 0, lost or half runs: 0" in result.stdout
    # Some of the time goes into starting the processes, so this asks only that both sides had turns.
    done = {role: int(count) for role, count in re.findall(r"(write|read)s: (\d+)", result.stdout)}
    assert done["write"] >= 2
    assert done["read"] >= 3
