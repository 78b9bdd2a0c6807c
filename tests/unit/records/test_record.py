"""Documents of a run: what we wrote comes back, old ones are upgraded, odd values are left out and named."""

import json
import math
from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.fileio import finite
from engine.records.capture import CaptureCounts
from engine.records.events import read_events
from engine.records.interval import Interval
from engine.records.labels import Labels
from engine.records.provenance import Provenance
from engine.records.record import Record
from engine.records.speed import Speed
from engine.records.status import Status
from engine.records.summary import Metric, Summary
from engine.records.training import Training
from engine.runs.samples import sample_folders

KINDS = (Status, Training, Provenance, Summary, Labels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_document_is_read_whole_and_written_as_it_was(kind: type[Record]):
    folders = sample_folders()
    assert len(folders) > 100
    for folder in folders:
        record, left_out = kind.load(folder)
        assert record is not None
        assert left_out == []
        stored = json.loads((folder / kind.FILE).read_text())
        rewritten = json.loads(json.dumps(finite(record.document())))
        assert rewritten == stored | rewritten, "nothing is lost or changed"
        assert rewritten.keys() - stored.keys() <= {"schema", "positions_trained", "steps_skipped"}


def test_every_shipped_event_is_read_whole_and_written_as_it_was():
    for folder in sample_folders():
        parsed = read_events(folder)
        assert (parsed.torn, parsed.senseless) == (0, 0)
        stored = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        assert [{**event.document(), **old} for event, old in zip(parsed.events, stored, strict=True)] == [
            {"schema": 1, **old} if old["kind"] == "started" else old for old in stored
        ]


def test_training_of_before_there_were_modes_was_on_every_token(tmp_path: Path):
    (tmp_path / "training.json").write_text('{"steps": 4, "tokens_seen": 90}')
    training = Training.read(tmp_path)
    assert training is not None
    assert (training.positions_trained, training.steps_skipped) == (90, 0)
    (tmp_path / "training.json").write_text('{"schema": 1, "steps": 4, "tokens_seen": 90}')
    assert Training.read_or_empty(tmp_path).positions_trained is None, "a document of today that does not say"


def test_what_is_written_has_a_schema_number_and_comes_back(tmp_path: Path):
    timing = Speed(speedup=Interval(1.2, math.nan, math.nan, 1), cost_ratio=0.1)
    summary = Summary(
        metrics=[Metric(draft="trained", metric="exact", value=0.5, temperature=0.7)],
        accepted_lengths={0.7: [1, 2]},
        speed=timing,
    )
    summary.write(tmp_path)
    stored = json.loads((tmp_path / "measure" / "summary.json").read_text())
    assert stored["schema"] == 1
    assert stored["accepted_lengths"] == {"0.7": [1, 2]}
    assert stored["speed"]["speedup"] == {"value": 1.2, "low": None, "high": None, "n_prompts": 1}
    assert "certificate" not in stored, "what was not set is not written"
    back = Summary.read_or_empty(tmp_path)
    assert back.accepted_lengths == {0.7: [1, 2]}
    assert back.speed is not None
    assert back.speed.speedup is not None
    assert math.isnan(back.speed.speedup.low)


def test_keys_of_another_version_are_kept(tmp_path: Path):
    (tmp_path / "status.json").write_text('{"state": "done", "mood": "good", "progress": {"tokens_per_s": 7}}')
    status = Status.read_or_empty(tmp_path).model_copy(update={"phase": "end"})
    kept = {"schema": 1, "state": "done", "mood": "good", "progress": {"tokens_per_s": 7}}
    assert status.document() == {**kept, "phase": "end"}


def test_a_document_of_a_later_schema_is_not_guessed_at(tmp_path: Path):
    (tmp_path / "status.json").write_text('{"state": "done", "schema": 99}')
    with pytest.raises(DraftbenchError, match="schema 99") as error:
        Status.read(tmp_path)
    assert "update Draftbench" in error.value.fix


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_object_is_an_error_and_a_missing_one_is_none(kind: type[Record], tmp_path: Path):
    assert kind.read(tmp_path) is None
    path = tmp_path / kind.FILE
    path.parent.mkdir(exist_ok=True)
    for content in (b"", b"{", b"[1]", b"\xff{", b"[" * 100_000, b"1" * 5000, b'"text"', b"null"):
        path.write_bytes(content)
        with pytest.raises(DraftbenchError):
            kind.read(tmp_path)
        assert kind.read_or_empty(tmp_path) == kind()
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(DraftbenchError, match="leads nowhere"):
        kind.read(tmp_path)


def test_odd_values_are_left_out_with_the_item_they_stand_in():
    good = {"draft": "trained", "metric": "exact", "value": 0.5, "n_prompts": 3}
    bad = [{"value": 0.5}, {**good, "value": "high"}, {**good, "n_tokens": 1.5}, "exact", None]
    document = {
        "metrics": [*bad, good, {**good, "n_prompts": 4.0}],
        "speed": {"speedup": {"value": 2, "low": [1]}, "alpha": 0.5, "by_gamma": [{"gamma": True}, {"gamma": 2}]},
        "certificate": [],
        "by_slot": {"warm": [], "0.7": [{"slot": 1}]},
    }
    summary, left_out = Summary.parse(document)
    assert [metric.n_prompts for metric in summary.metrics] == [3, 4]
    assert summary.speed is not None
    assert summary.speed.speedup is not None
    assert (summary.speed.alpha, summary.speed.speedup.value) == (0.5, 2.0)
    assert math.isnan(summary.speed.speedup.low)
    assert [row.gamma for row in summary.speed.by_gamma] == [2]
    assert summary.certificate is None
    assert list(summary.by_slot) == [0.7]
    assert len(left_out) == 5 + 4
    assert all(line.startswith("summary.json: ") and line.endswith("makes no sense") for line in left_out)
    assert document["certificate"] == [], "what was given is left as it was"


def test_null_in_place_of_a_text_says_that_it_is_not_known():
    assert Labels.parse({"title": None, "tags": None, "pinned": None}) == (Labels.parse({})[0], [])


def test_numbers_that_the_index_cannot_hold_are_left_out():
    counts, left_out = CaptureCounts.parse({"tokens": 2**63, "prompts": 10**400, "stopped": float("nan"), "address": 5})
    assert (counts.tokens, counts.prompts, counts.stopped, counts.address) == (0, 0, 0, None)
    assert len(left_out) == 4


@pytest.mark.parametrize("state", ["melted", ["queued"], 3, "interrupted", "damaged"])
def test_a_status_that_names_no_state_of_a_file_is_damaged(state: object, tmp_path: Path):
    path = tmp_path / "status.json"
    path.write_text(json.dumps({"state": state}))
    with pytest.raises(DraftbenchError, match="state is") as error:
        Status.read(tmp_path)
    assert "--resume" in error.value.fix
    path.write_text('{"state": null}')
    assert Status.read_or_empty(tmp_path).state == "unknown"
