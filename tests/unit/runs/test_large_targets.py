"""Whole runs of targets that do not lie whole on one device, or whose weights are quantised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.paths import PROJECT_ROOT, home
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder
from tests.tiny_quantised import in_float8
from tests.unit.conftest import Draftbench


@pytest.mark.slow
def test_a_target_with_layers_on_disk_gives_the_same_captures_draft_and_rates(
    recipe: Path, draftbench: Draftbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = []
    for name, settings in (("whole", []), ("split", ["device_map=auto", "max_memory_gb={cpu: 0.0001}"])):
        monkeypatch.setenv("DRAFTBENCH_HOME", str(tmp_path / name))  # nothing is shared
        changes = [part for setting in settings for part in ("--set", f"target.{setting}")]
        report = draftbench("run", str(recipe), *changes, "--json").json()
        run = RunFolder.open(home(), report["run"])
        signals = {folder.name: (folder / "signal.bin").read_bytes() for folder in home().captures.iterdir()}
        card = json.loads((run.path / "draft" / "best" / "draft.json").read_text())
        made.append((signals, card["weights_sha256"], report["metrics"], report["certificate"]["passed"]))
    assert made[0] == made[1]
    where = "4 layers: 1 on cpu, 3 on disk (its own files)"
    assert report["conditions"]["placed"] == where
    assert (Provenance.read(run.path) or Provenance()).target_placed == where
    assert where in " ".join(draftbench("show", run.id).out.split())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a machine with cards the processes use those")
def test_a_target_in_two_processes_gives_the_same_text_and_rates(recipe: Path, tmp_path: Path):
    """In processes of their own: a process has one split target at a time."""
    made = []
    for count in (1, 2):
        command = [sys.executable, "-m", "engine", "run", str(recipe), "--set", f"target.tensor_parallel={count}"]
        environment = {**os.environ, "DRAFTBENCH_HOME": str(tmp_path / str(count)), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, cwd=PROJECT_ROOT)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        exact = [m for m in report["metrics"] if m["metric"] == "exact"]
        rates = {(m["temperature"], m["draft"]): m["value"] for m in exact}
        texts = {
            (folder.name, answer["id"]): answer["token_ids"]
            for folder in (tmp_path / str(count) / "captures").iterdir()
            for answer in map(json.loads, (folder / "answers.jsonl").read_text().splitlines())
        }
        made.append((texts, rates, report["certificate"]["passed"], report["conditions"]["placed"]))
    (whole, rates, passed, _), (split, split_rates, split_passed, placed) = made
    assert split == whole
    assert split_rates == pytest.approx(rates, abs=1e-3)  # signals are bfloat16, of which a last bit may differ
    assert rates
    assert passed
    assert split_passed
    assert placed == "every layer in 2 parts, on as many devices"


@pytest.mark.slow
def test_a_float8_target_is_trained_for_and_certified(
    recipe: Path, draftbench: Draftbench, tiny_target_folder: Path, tmp_path: Path
):
    in_float8(tiny_target_folder, tmp_path / "float8")
    report = draftbench("run", str(recipe), "--set", f"target.model={tmp_path / 'float8'}", "--json").json()
    assert report["certificate"]["passed"]
