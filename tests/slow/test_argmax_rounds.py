"""On SmolLM2 and the generic draft, rounds with argmax proposals accept what `argmax` says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_rounds_with_argmax_proposals_accept_what_the_exact_pass_says():
    sizes = ["--rounds", "300", "--prompts", "8", "--tokens", "16", "--dtype", "bfloat16"]  # half the time of float32
    result = subprocess.run(
        [sys.executable, "benchmarks/argmax_rounds.py", *sizes, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["at_places"]["rounds"] == 300
    assert len(figures["holds"]) == 5
    assert all(figures["holds"].values())
