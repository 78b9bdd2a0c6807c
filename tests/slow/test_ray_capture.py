"""A capture on a small Ray cluster, of which nodes and the driver are killed, is the capture of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_cluster_whose_nodes_are_killed_writes_the_bytes_of_one_process():
    """Nodes that do not see the home, reached through Ray Client."""
    sizes = ["--prompts", "40", "--shards", "5", "--tokens", "12"]
    result = subprocess.run(
        [sys.executable, "benchmarks/ray_capture.py", *sizes, "--apart", "--client"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["equal"]
    assert figures["killed"]
