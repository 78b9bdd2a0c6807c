"""A whole run whose target has int8 weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.paths import home
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder
from tests.unit.conftest import Draftbench


@pytest.mark.slow
def test_a_run_says_that_its_target_is_rounded_and_certifies_it(recipe: Path, draftbench: Draftbench):
    settings = [part for key in ("quantize=int8", "dtype=bfloat16") for part in ("--set", f"target.{key}")]
    report = draftbench("run", str(recipe), *settings, "--json").json()
    run = RunFolder.open(home(), report["run"])
    assert report["certificate"]["passed"]
    assert report["conditions"]["quantize"] == "int8"
    assert run.summary().conditions.precision == "bfloat16 with int8 weights"
    assert (Provenance.read(run.path) or Provenance()).target_quantize == "int8"
    assert "int8 weights" in draftbench("show", run.id).out
