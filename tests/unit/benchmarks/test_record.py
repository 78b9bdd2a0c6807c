"""A benchmark's JSON, its goals, and the page that is made of both."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks import report as page_maker
from benchmarks.speed.goals import GOALS, judged
from benchmarks.speed.pairs import Paired, Sample
from benchmarks.speed.record import Company, Figure, Report, Row, begin, pairs_of, read, row_of, watched
from benchmarks.speed.session import Planned, run


def decode_row(ours: float, theirs: float = 10.0) -> Row:
    rounds = [1.0, 1.1, 0.9, 1.0]
    samples = {name: [Sample(rate * s, s) for s in rounds] for name, rate in (("plain", ours), ("generate", theirs))}
    return row_of("decode", "Decoding", Paired("tokens", samples), pairs_of(("plain", "generate")), {"tokens": 48})


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path):
    before = begin("bench", ["--rows", "decode"], "cpu")
    after = run([Planned("decode", 1, lambda folder: decode_row(13.5))], before, tmp_path / "out.json")
    assert read(tmp_path / "out.json") == after
    assert after.rows[0].figures["plain/generate"].value == pytest.approx(1.35)
    assert after.rows[0].company is not None
    assert after.load_after is not None


def test_a_row_that_fails_or_has_no_time_left_is_noted_and_the_others_are_measured(tmp_path: Path):
    def fails(folder: Path) -> Row:
        raise ValueError("no such model")

    planned = [Planned("a", 1, fails), Planned("b", 1e9, fails), Planned("decode", 1, lambda folder: decode_row(9))]
    report = run(planned, begin("bench", [], "cpu"), None, limit_s=60)
    assert [row.name for row in report.rows] == ["decode"]
    assert report.skipped["a"] == "ValueError: no such model"
    assert "were left" in report.skipped["b"]


def test_a_stop_keeps_what_was_measured_and_begins_no_other_row(tmp_path: Path):
    def stopped(folder: Path) -> Row:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal interrupts first")

    planned = [Planned("decode", 1, lambda folder: decode_row(9)), Planned("a", 1, stopped), Planned("b", 1, stopped)]
    before = signal.getsignal(signal.SIGTERM)
    report = run(planned, begin("bench", [], "cpu"), tmp_path / "out.json")
    assert [row.name for row in report.rows] == ["decode"]
    assert report.skipped == {"a": "stopped before two rounds were done", "b": "stopped before"}
    assert read(tmp_path / "out.json") == report
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_way_that_did_nothing_has_no_rate():
    with pytest.raises(ValueError, match="b did nothing"):
        row_of("x", "x", Paired("tokens", {"a": [Sample(1, 1)], "b": [Sample(0, 1)]}), {}, {})


def test_work_of_this_process_is_not_company():
    with watched() as seen:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    assert seen["seconds"] >= 0.3
    assert seen["company"].others < 0.9, "a busy loop of our own would be a whole processor"


@pytest.mark.parametrize(("ours", "verdict"), [(13.5, "met"), (9.9, "missed")])
def test_goals_are_judged_by_the_newest_row(ours: float, verdict: str):
    old = begin("bench", [], "cpu").model_copy(update={"began": "2026-01-01", "rows": [decode_row(11.0)]})
    new = old.model_copy(update={"began": "2026-01-02", "rows": [decode_row(ours)]})
    line = next(one for one in judged([new, old], "cpu") if one.goal.figure == "plain/generate")
    assert line.verdict == verdict
    assert line.share == pytest.approx(ours / 13)
    others = [one for one in judged([new, old], "cpu") if one.goal.row != "decode"]
    assert {one.verdict for one in others} == {"not measured"}


def test_a_bound_from_above_is_reached_from_below():
    row = Row(name="start", title="", conditions={}, unit="", samples={}, figures={"help_s": Figure(value=0.6)})
    report = begin("bench", [], "cpu").model_copy(update={"rows": [row]})
    line = next(one for one in judged([report], "cpu") if one.goal.figure == "help_s")
    assert (line.verdict, line.share) == ("missed", pytest.approx(0.5))


def test_goals_have_names_of_their_own():
    assert len({(goal.device, goal.work) for goal in GOALS}) == len(GOALS)


def disturbed_report() -> Report:
    row = decode_row(9.0).model_copy(update={"company": Company(others=0.3, stolen=0.0)})
    return begin("bench", [], "cpu").model_copy(update={"rows": [row]})


def test_the_page_shows_goals_reasons_and_what_was_disturbed():
    text = page_maker.page([disturbed_report()], {"cpu decode plain/generate": "the kernel reads its weights twice"})
    assert "| plain decoding over `generate` | >= 1.3 | 0.900 [0.900, 0.900] x: missed, 0.692 of the goal |" in text
    assert "the kernel reads its weights twice" in text
    assert "**Disturbed:** other programs used 30%" in text
    assert "## On a GPU\n\nNot measured yet." in text


def test_the_page_in_docs_is_made_from_the_files_beside_it():
    reports = [read(path) for path in sorted(page_maker.FOLDER.glob("*.json"))]
    made = page_maker.page(reports, page_maker.read_notes(page_maker.FOLDER / "notes.yaml"))
    assert page_maker.PAGE.read_text(encoding="utf-8") == made, "run `python benchmarks/report.py`"


def test_every_note_is_on_a_goal():
    known = {f"{goal.device} {goal.row} {goal.figure}" for goal in GOALS}
    assert page_maker.read_notes(page_maker.FOLDER / "notes.yaml").keys() <= known
