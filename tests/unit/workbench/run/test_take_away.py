"""What of a run can be taken away through the browser."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.runs.folder import RunFolder
from workbench.run import take_away


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = tmp_path / "run-1"
    (folder / "draft" / "best").mkdir(parents=True)
    (folder / "draft" / "best" / "model.safetensors").write_bytes(b"w" * 3000)
    (folder / "draft" / "best" / "config.json").write_text("{}")
    (folder / "log.txt").write_text("step 1\n")
    return RunFolder(folder)


def test_drafts_log_and_traces_are_offered_as_far_as_there_are_any(run: RunFolder):
    assert [(parcel.label, parcel.name) for parcel in take_away.parcels(run)] == [
        ("Best draft", "best.zip"),
        ("Log", "log.txt"),
    ]
    (run.path / "measure").mkdir()
    (run.path / "measure" / "tokens.parquet").write_bytes(b"t")
    (run.path / "measure" / "rounds.parquet").write_bytes(b"r")
    assert take_away.parcels(run)[-1].size == 2


def test_a_draft_is_whole_in_its_zip(run: RunFolder):
    best, log = take_away.parcels(run)
    with zipfile.ZipFile(io.BytesIO(take_away.packed(best))) as archive:
        assert archive.testzip() is None
        assert archive.read("model.safetensors") == b"w" * 3000
        assert archive.namelist() == ["config.json", "model.safetensors"]
    assert take_away.packed(log) == b"step 1\n"


def test_nothing_outside_the_run_is_sent(run: RunFolder, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (run.path / "draft" / "best" / "link").symlink_to(secret)
    (run.path / "output.txt").symlink_to(secret)
    (run.path / "draft" / "last").symlink_to(tmp_path)
    names = [path.name for parcel in take_away.parcels(run) for path in parcel.files]
    assert names == ["config.json", "model.safetensors", "log.txt"]


def test_a_file_that_grew_beyond_the_limit_is_refused(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    (best, _) = take_away.parcels(run)
    monkeypatch.setattr(take_away, "MOST_BYTES", 2000)
    with pytest.raises(DraftbenchError, match="3,000 bytes"):
        take_away.packed(best)
