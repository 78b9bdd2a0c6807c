"""Findings are worked out once for each state of the runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.fileio import write_json
from engine.findings import home as module
from engine.findings.as_json import as_json
from engine.findings.home import HomeFindings, evaluate_home
from engine.paths import Home
from engine.runs.samples import sample_folders

pytestmark = pytest.mark.slow

SAMPLES = ("first-biology-historical-forward-kl-200-2", "first-biology-historical-sft-200-2", "generic-")


@pytest.fixture
def filled(tmp_path: Path) -> Home:
    """A home with a pair of the sample runs, and the general draft."""
    home = Home(tmp_path)
    for folder in sample_folders():
        if folder.name.startswith(SAMPLES):
            ignored = shutil.ignore_patterns("draft", "positions.parquet", "tokens.parquet", "rounds.parquet")
            shutil.copytree(folder, home.run(folder.name), ignore=ignored)
    return home


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the claims were tested: one entry each time."""
    times: list[int] = []
    real = module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *args: times.append(1) or real(*args))
    return times


def document(home: Home, study: str | None = None) -> str:
    return json.dumps(as_json(evaluate_home(home, study), study), sort_keys=True)


def test_a_second_visit_reads_what_the_first_worked_out(filled: Home, worked_out: list[int]):
    first = evaluate_home(filled)
    again = evaluate_home(filled)
    assert worked_out == [1]
    assert any(finding.cells for finding in first.findings)
    assert repr(again.findings) == repr(first.findings)  # by their words, since NaN is not equal to NaN
    assert document(filled) == json.dumps(as_json(first), sort_keys=True)
    assert again.wanted == first.wanted


def test_the_runs_are_read_when_somebody_asks_for_them(filled: Home):
    evaluate_home(filled)
    again: HomeFindings = evaluate_home(filled)
    assert "taking_part" not in vars(again)
    assert len(again.runs) == again.n_runs == 3
    assert not again.sums.empty


def test_a_run_that_changes_is_seen(filled: Home, worked_out: list[int]):
    evaluate_home(filled)
    run = next(filled.runs.iterdir())
    write_json(run / "labels.json", {"archived": True})
    assert evaluate_home(filled).left_out["archived"] == 1
    shutil.rmtree(run)
    assert evaluate_home(filled).left_out["archived"] == 0
    assert len(worked_out) == 3


def test_a_study_has_findings_of_its_own(filled: Home, worked_out: list[int]):
    whole, study = evaluate_home(filled), evaluate_home(filled, "no/such study")
    assert (whole.n_runs, study.n_runs) == (3, 0)
    assert (evaluate_home(filled).n_runs, evaluate_home(filled, "no/such study").n_runs) == (3, 0)
    assert len(worked_out) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("reproduced", "reprodused", 1).replace("same direction", "not reproduced", 1),
        lambda text: "",
        lambda text: "\x00\xff",
        lambda text: text.split("\n")[0] + "\n[]",
    ],
)
def test_a_kept_result_that_is_damaged_or_edited_is_worked_out_again(filled: Home, worked_out: list[int], damage):
    whole = document(filled)
    path = filled.root / "kept" / "findings.json"
    text = path.read_text(encoding="utf-8")
    assert damage(text) != text
    path.write_text(damage(text), encoding="utf-8")
    assert document(filled) == whole
    assert path.read_text(encoding="utf-8") == text
    assert len(worked_out) == 2


def test_what_cannot_be_kept_is_shown_all_the_same(filled: Home, worked_out: list[int]):
    (filled.root / "kept").write_text("a file where the folder should be")
    assert evaluate_home(filled).n_runs == evaluate_home(filled).n_runs == 3
    assert len(worked_out) == 2


def test_the_folder_can_be_removed(filled: Home):
    whole = document(filled)
    shutil.rmtree(filled.root / "kept")
    assert document(filled) == whole
