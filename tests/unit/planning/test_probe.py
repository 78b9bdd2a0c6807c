"""The trial of a target and its draft, on the tiny pair: kept, and what an estimate is made of without earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.fileio import read_json
from engine.paths import home
from engine.planning.estimate import NEVER_RUN, estimate
from engine.planning.probe import kept_probe, probe
from engine.progress import PARTS
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from engine.runs.session import load_target


def made(path: Path, *settings: str) -> Any:
    return read_recipe(home(), str(path), settings, skip_bad=False)


@pytest.mark.slow
def test_a_trial_gives_the_first_estimate(recipe: Path):
    ours = made(recipe)
    assert estimate(home(), ours).seconds_unknown == NEVER_RUN
    tried = probe(home(), ours, load_target(ours))
    assert min(tried.figures) > 0
    assert kept_probe(home(), ours) == tried
    found = estimate(home(), ours)
    assert (found.probed, found.based_on, found.seconds_unknown) == (True, "", "")
    assert set(found.seconds) == set(PARTS)
    assert min(found.seconds.values()) > 0


@pytest.mark.slow
def test_other_keys_need_no_other_trial_and_other_models_do(recipe: Path):
    ours = made(recipe)
    probe(home(), ours, load_target(ours))
    once, twice = estimate(home(), ours), estimate(home(), made(recipe, "train.epochs=4"))
    assert twice.seconds["training"] == pytest.approx(2 * once.seconds["training"])
    longer = estimate(home(), made(recipe, "capture.max_new_tokens=24"))
    assert once.seconds["capture"] < longer.seconds["capture"] < 2 * once.seconds["capture"]
    assert estimate(home(), made(recipe, "draft.layers=[0]")).seconds_unknown == NEVER_RUN
    assert estimate(home(), made(recipe, "target.dtype=bfloat16")).seconds_unknown == NEVER_RUN


@pytest.mark.slow
def test_what_a_draft_writes_is_not_counted_and_said_to_be_missing(recipe: Path):
    ours = made(recipe, "train.mode=on_policy")
    probe(home(), ours, load_target(ours))
    assert estimate(home(), ours).seconds_missing == ("training",)


@pytest.mark.slow
def test_a_damaged_trial_is_none(recipe: Path):
    ours = made(recipe)
    probe(home(), ours, load_target(ours))
    (path,) = (home().root / "probes").glob("*/probe.json")
    path.write_text('{"schema": 1, "step_s": 1e999}')
    assert kept_probe(home(), ours) is None
    assert estimate(home(), ours).seconds_unknown == NEVER_RUN


@pytest.mark.slow
def test_a_first_run_is_tried_and_says_what_is_left_of_the_whole(draftbench: Any, recipe: Path):
    assert draftbench("run", str(recipe)).code == 0
    run = RunFolder.open(home(), "latest")
    log = (run.path / "log.txt").read_text()
    assert "trying target and draft for 5 seconds" in log
    assert "expected: capture" in log
    assert read_json(run.path / "status.json")["progress"]["left_s"] >= 0
    assert draftbench("run", str(recipe), "--set", "capture.seed=7").code == 0
    again = RunFolder.open(home(), "latest")
    assert f"scaled from run {run.id}" in (again.path / "log.txt").read_text()
