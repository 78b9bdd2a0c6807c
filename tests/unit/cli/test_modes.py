"""Every mode of training the whole way through the command line on a tiny pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.fileio import read_json, read_lines
from engine.paths import home
from engine.runs.folder import RunFolder
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow  # whole runs

MODES: dict[str, list[str]] = {
    "decoded stream": ["train.mode=online", "train.online.update_interval=3"],
    "replayed stream": ["train.mode=online", "train.online.stream=replay", "train.online.update_interval=3"],
    "stream, all positions, black box": ["train.mode=online", "train.online.positions=all", "train.loss=sft"],
    "on-policy": ["train.mode=on_policy"],
    "assisted": ["train.mode=on_policy", "train.on_policy.form=assisted", "train.on_policy.share=1"],
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_every_mode_is_trained_and_measured(draftbench: Draftbench, recipe: Path, mode: str):
    settings = [part for setting in MODES[mode] for part in ("--set", setting)]
    result = draftbench("run", str(recipe), "--json", *settings)
    assert result.code == 0, result.err
    document = result.json()
    assert document["state"] == "done"
    assert document["certificate"]["passed"]
    run = RunFolder.open(home(), document["run"])
    training = read_json(run.path / "training.json")
    assert training["steps_done"] == training["steps"] > 0
    assert training["positions_trained"] > 0
    events = list(read_lines(run.path / "events.jsonl"))
    kinds = {event["kind"] for event in events}
    assert kinds >= {"started", "eval", "train", "ended"}
    online = "train.mode=online" in MODES[mode]
    assert ("stream" in kinds) == online
    if online:
        check_stream(events, training)


def check_stream(events: list[dict[str, Any]], training: dict[str, Any]) -> None:
    stream = [event for event in events if event["kind"] == "stream"]
    assert [event["query"] for event in stream] == list(range(1, 9))
    assert sum(event["emitted"] for event in stream) == training["tokens_seen"]


def test_a_decoded_stream_captures_held_out_prompts_alone(draftbench: Draftbench, recipe: Path):
    result = draftbench("run", str(recipe), "--json", "--set", "train.mode=online")
    run = RunFolder.open(home(), result.json()["run"])
    assert set(read_json(run.path / "provenance.json")["captures"]) == {"heldout T=0", "heldout T=1"}


def test_a_stream_that_was_stopped_goes_on_where_it_was(
    draftbench: Draftbench, recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    from engine.distill.stream import StreamLog

    arguments = ("run", str(recipe), "--set", "train.mode=online", "--set", "train.online.update_interval=2")
    append, seen = StreamLog.append, []

    def cut(self: StreamLog, *entry: Any) -> None:
        append(self, *entry)
        seen.append(entry[0].query)
        if len(seen) == 6:  # in the middle of the third update
            raise KeyboardInterrupt

    monkeypatch.setattr(StreamLog, "append", cut)
    assert draftbench(*arguments).code == 130
    monkeypatch.setattr(StreamLog, "append", append)
    result = draftbench("run", "--resume", "latest", "--json")
    assert result.code == 0, result.err
    assert seen == [0, 1, 2, 3, 4, 5]
    lines = list(read_lines(RunFolder.open(home(), result.json()["run"]).path / "stream" / "answers.jsonl"))
    assert [line["query"] for line in lines] == list(range(8))


def test_token_selection_learns_from_the_share_that_lags_behind_a_reference(draftbench: Draftbench, recipe: Path):
    first = draftbench("run", str(recipe), "--json")
    settings = ["train.selection.share=0.25", f"train.selection.reference={first.json()['run']}"]
    result = draftbench("run", str(recipe), "--json", *(part for setting in settings for part in ("--set", setting)))
    assert result.code == 0, result.err
    training = read_json(RunFolder.open(home(), result.json()["run"]).path / "training.json")
    assert training["positions_trained"] == pytest.approx(training["tokens_seen"] / 4, rel=0.05)


def test_a_reference_that_is_no_draft_is_refused_by_name(
    draftbench: Draftbench, recipe: Path, tiny_target_folder: Path
):
    settings = ["train.selection.share=0.5", f"train.selection.reference={tiny_target_folder}"]
    result = draftbench("run", str(recipe), "--json", *(part for setting in settings for part in ("--set", setting)))
    assert result.code == 2
    assert "is not a draft" in result.json()["error"]["what"]
