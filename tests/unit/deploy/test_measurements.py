"""Served measurements in a run's folder: whole or not at all, with what they were read from."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.deploy import measurements
from engine.deploy.importing import Stated, measurement_of
from engine.deploy.measurements import keep, kept_measurements, new_name, one_measurement, remove_measurement
from engine.deploy.readers.documents import document
from engine.deploy.readers.forms import read_documents
from engine.errors import DraftbenchError
from engine.records.served import ServedMeasurement
from tests.unit.deploy.readers import recorded
from tests.unit.deploy.readers.recorded import as_file

NOW = datetime(2026, 11, 28, 10, 15, tzinfo=UTC)


def measured(**stated: object) -> ServedMeasurement:
    reading, form = read_documents([as_file(*recorded.with_ids(recorded.VLLM, 2))])
    return measurement_of(reading, form, Stated(temperature=0.0, **stated), NOW)  # type: ignore[arg-type]


def test_what_is_kept_is_what_is_read_again(tmp_path: Path):
    raw = as_file(*recorded.with_ids(recorded.VLLM, 2))
    kept = keep(tmp_path, "one", measured(), [raw])
    (found,) = kept_measurements(tmp_path)
    assert found.measurement is not None
    assert (found.name, found.measurement.document(), found.problem) == ("one", kept.document(), "")
    assert kept.totals == kept.per_request[0].model_copy(
        update={"requests": 2, "rounds": 86, "proposed": 258, "accepted": 20, "accepted_at": [8, 6, 6], "emitted": 108}
    )
    assert (kept.form, kept.num_draft_tokens, kept.recorded_at) == ("vllm", 3, "2026-11-28T10:15:00+00:00")
    (file,) = kept.files
    assert file.sha256 == hashlib.sha256(raw.raw).hexdigest()
    assert (tmp_path / "served" / "one" / str(file.kept_as)).read_bytes() == raw.raw


def test_the_same_files_twice_are_said_to_be_one_measurement(tmp_path: Path):
    first, again, other = as_file(recorded.VLLM), as_file(recorded.VLLM), document("x.json", b"{}")
    assert not keep(tmp_path, "one", measured(), [first]).notes
    assert not keep(tmp_path, "other", measured(), [other]).notes
    assert not keep(tmp_path, "probed", measured()).notes
    (note,) = keep(tmp_path, "again", measured(), [again]).notes
    assert note == "it was read from the same files as one, so the two are one measurement"


def test_large_files_are_named_and_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measurements, "MOST_COPIED_BYTES", 10)
    kept = keep(tmp_path, "one", measured(), [as_file(recorded.VLLM)])
    assert (kept.files[0].kept_as, kept.files[0].size_bytes) == (None, len(as_file(recorded.VLLM).raw))
    assert sorted(path.name for path in (tmp_path / "served" / "one").iterdir()) == ["measurement.json"]


def test_a_name_of_a_file_leads_nowhere_else(tmp_path: Path):
    kept = keep(tmp_path, "one", measured(), [document("../../..\n/x", b"{}")])
    (copy,) = (tmp_path / "served" / "one" / "raw").iterdir()
    assert kept.files[0].kept_as == f"raw/{copy.name}"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a" * 81, "a\nb"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DraftbenchError, match="not the name of a measurement"):
        keep(tmp_path, name, measured())


def test_none_is_replaced_and_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep(tmp_path, "one", measured())
    with pytest.raises(DraftbenchError, match="already"):
        keep(tmp_path, "one", measured())
    monkeypatch.setattr(ServedMeasurement, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep(tmp_path, "two", measured())
    assert [kept.name for kept in kept_measurements(tmp_path)] == ["one"]
    assert sorted(path.name for path in (tmp_path / "served").iterdir()) == ["one"]


def test_a_damaged_one_is_listed_with_what_is_wrong(tmp_path: Path):
    for name in ("empty", "future", "torn", "whole"):
        keep(tmp_path, name, measured())
    served = tmp_path / "served"
    (served / "empty" / "measurement.json").unlink()
    (served / "future" / "measurement.json").write_text('{"schema": 9}')
    (served / "torn" / "measurement.json").write_text('{"schema": 1, "totals"')
    document_ = json.loads((served / "whole" / "measurement.json").read_text())
    (served / "whole" / "measurement.json").write_text(json.dumps(document_ | {"temperature": "cold", "new": 1}))
    problems = {kept.name: kept.problem for kept in kept_measurements(tmp_path)}
    assert "no measurement.json" in problems["empty"]
    assert "newer Draftbench" in problems["future"]
    assert "not valid JSON" in problems["torn"]
    assert "'cold' makes no sense" in problems["whole"]


def test_a_count_below_nothing_is_left_out_and_said(tmp_path: Path):
    keep(tmp_path, "one", measured())
    path = tmp_path / "served" / "one" / "measurement.json"
    values = json.loads(path.read_text())
    values["totals"] |= {"rounds": -86}
    path.write_text(json.dumps(values))
    (kept,) = kept_measurements(tmp_path)
    assert kept.measurement is not None
    assert kept.measurement.totals.rounds is None
    assert "-86 makes no sense" in kept.problem


def test_a_new_name_is_free(tmp_path: Path):
    first = new_name(tmp_path, "llama.cpp", NOW)
    keep(tmp_path, first, measured())
    assert (first, new_name(tmp_path, "llama.cpp", NOW)) == ("llama.cpp-20261128-101500", "llama.cpp-20261128-101500-1")


def test_one_is_removed_and_an_unknown_one_is_named(tmp_path: Path):
    keep(tmp_path, "one", measured())
    remove_measurement(tmp_path, "one")
    assert kept_measurements(tmp_path) == []
    with pytest.raises(DraftbenchError, match="no served measurement 'one'"):
        one_measurement(tmp_path, "one")


def test_a_copied_folder_has_its_measurements_and_an_old_run_has_none(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    assert kept_measurements(run) == []
    keep(run, "one", measured(), [as_file(recorded.VLLM)])
    shutil.copytree(run, tmp_path / "copy")
    (original,), (copy,) = kept_measurements(run), kept_measurements(tmp_path / "copy")
    assert copy.measurement is not None
    assert original.measurement is not None
    assert copy.measurement.document() == original.measurement.document()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"gamma": 4}, "--gamma is 4, the figures say 3"),
        ({"gamma": 0}, "--gamma is 0"),
        ({"server": "vlm"}, "unknown server"),
        ({"p_min": 1.5}, "--p-min is 1.5"),
        ({"concurrency": 0}, "--concurrency is 0"),
    ],
)
def test_what_is_stated_must_be_possible(stated: dict[str, object], message: str):
    with pytest.raises(DraftbenchError, match=message):
        measured(**stated)


def test_a_temperature_that_is_no_number_is_refused():
    reading, form = read_documents([as_file(recorded.VLLM)])
    for value in (math.nan, -1.0, 11.0):
        with pytest.raises(DraftbenchError, match="--temperature"):
            measurement_of(reading, form, Stated(temperature=value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 10.5}, "the figures say that temperature is 10.5"),
        ({"gamma": 65}, "the figures say that gamma is 65"),
        ({"concurrency": 0}, "the figures say that concurrency is 0"),
    ],
)
def test_what_is_read_must_be_possible_as_what_is_stated(changes: dict[str, Any], message: str):
    reading, form = read_documents([as_file(recorded.SGLANG)])
    with pytest.raises(DraftbenchError, match=message):
        measurement_of(replace(reading, **changes), form, Stated())


def test_gamma_must_fit_what_was_proposed():
    reading, form = read_documents([as_file(recorded.SGLANG)])
    with pytest.raises(DraftbenchError, match="36 tokens were proposed in 12 rounds"):
        measurement_of(reading, form, Stated(gamma=2))
    beyond = replace(reading, totals=reading.totals.model_copy(update={"proposed": None}))
    with pytest.raises(DraftbenchError, match="3 tokens were accepted at places beyond 2"):
        measurement_of(beyond, form, Stated(gamma=2))


@pytest.mark.slow
def test_of_very_many_requests_the_sums_are_kept():
    reading, form = read_documents([as_file(*[recorded.LLAMA_CPP] * 20_001)])
    measurement = measurement_of(reading, form, Stated())
    assert (len(measurement.per_request), measurement.totals.requests) == (0, 20_001)
    assert any("only their sums are kept" in note for note in measurement.notes)
    assert measurement.tokens_per_s is not None
    assert measurement.tokens_per_s.value == pytest.approx(20.0)
