"""Which runs share captures, and which captures a node needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.cluster.capture_order import CapturesAtHome, capture_keys
from engine.config.reading import parse_recipe
from engine.fileio import write_json
from engine.paths import Home
from engine.records.capture import CaptureCounts
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder

BASE = {"prompts": {"train": "a.jsonl", "heldout": "b.jsonl", "train_prompts": 8}}


def recipe(**changes: Any) -> Any:
    prompts = {**BASE["prompts"], **changes.pop("prompts", {})}
    return parse_recipe({**BASE, **changes, "prompts": prompts})


def test_what_changes_no_answer_changes_no_key():
    first = capture_keys(recipe())
    assert first == capture_keys(recipe(name="other", train={"seed": 3, "epochs": 2}, resources={"cpus": 4}))
    assert first == capture_keys(recipe(train={"loss": "sft"}))


def test_other_prompts_are_another_capture_and_sizes_share_a_source():
    first, smaller = capture_keys(recipe()), capture_keys(recipe(prompts={"train_prompts": 4}))
    assert (first.heldout, first.source) == (smaller.heldout, smaller.source)
    assert first.training != smaller.training
    other = capture_keys(recipe(prompts={"train": "c.jsonl"}))
    assert (other.heldout == first.heldout, other.source == first.source) == (True, False)
    assert capture_keys(recipe(measure={"max_new_tokens": 7})).heldout != first.heldout


def made(home: Home, recipe: Any, address: str, *, whole: bool = True) -> RunFolder:
    run = RunFolder.create(home, recipe)
    Provenance(captures={"training": CaptureCounts(address=address)}).write(run.path)
    captured(home, address, whole=whole)
    return run


def captured(home: Home, address: str, *, whole: bool) -> None:
    write_json(home.captures / address / "spec.json", {})
    if whole:
        write_json(home.captures / address / "done.json", {})


def test_captures_that_lie_at_home_are_known_by_the_runs_that_used_them(tmp_path: Path):
    home = Home(tmp_path)
    made(home, recipe(), "aa")
    made(home, recipe(target={"model": "other"}), "bb", whole=False)
    known = CapturesAtHome(home)
    assert known.made() == capture_keys(recipe()).captures


def test_a_node_gets_what_is_related_and_what_nobody_names(tmp_path: Path):
    home = Home(tmp_path)
    made(home, recipe(), "aa")
    made(home, recipe(target={"model": "other"}), "bb")
    captured(home, "cc", whole=False)  # of a run that was interrupted before it could name it
    run = RunFolder.create(home, recipe(prompts={"train_prompts": 4}))
    assert CapturesAtHome(home).wanted_by(run) == ["aa", "cc"]
