"""Run folders of every kind of health, into the index."""

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from engine.config.reading import dump_recipe, parse_recipe
from engine.errors import DraftbenchError
from engine.index import changes, ingest, queries, rows
from engine.index.changes import fingerprint
from engine.index.connection import reading
from engine.index.contents import read_run
from engine.index.ingest import forget, ingest_all, ingest_run
from engine.index.schema import PARQUET_TABLES
from engine.paths import Home
from tests.unit.index.run_folders import KEY, WHOLE, counts, frames, make_run, problems, recipe, row_counts, table

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home [1] *" / "draft=other")  # names that globbing and hive partitions would trip over


def test_a_whole_run_is_indexed_as_it_is(home):
    assert ingest_run(home.index, make_run(home))
    assert counts(home) == WHOLE
    with reading(home.index) as con:
        run = queries.get_run(con, "run-1")
    assert (run.name, run.state, run.phase, run.domain, run.scenario) == ("demo", "done", "end", "law", "curated")
    assert (run.mode, run.supervision, run.loss, run.draft_init) == ("offline", "white_box", "forward_kl", "layers")
    assert (run.tags, run.problems, run.folder) == (["x", "y"], [], "runs/run-1")
    assert (run.created_at, run.updated_at) == (datetime(2025, 6, 1, 10), None)
    assert parse_recipe(run.config) == recipe()
    assert run.provenance.document() == {"schema": 1, "git": "abc", "limits": [None]}
    for name, frame in frames().items():
        if name == "tokens":
            continue  # traces are read from the file
        written = frame.rename(columns={"group": "prompt_group"})
        pd.testing.assert_frame_equal(table(home, name)[list(written)], written, check_dtype=False)


def test_an_unchanged_run_is_not_written_again(home):
    folder = make_run(home)
    assert ingest_run(home.index, folder)
    before = home.index.stat().st_mtime_ns
    assert not ingest_run(home.index, folder)
    assert home.index.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", changes._FILES)
def test_any_change_of_a_file_is_noticed(home, name):
    folder = make_run(home)
    before = fingerprint(folder)
    with open(folder / name, "a") as file:
        file.write("\n")
    assert fingerprint(folder) != before


def test_a_changed_run_replaces_its_rows(home):
    folder = make_run(home)
    ingest_run(home.index, folder)
    (folder / "status.json").write_text('{"state": "failed"}')
    assert ingest_run(home.index, folder)
    assert counts(home) == WHOLE
    with reading(home.index) as con:
        assert queries.get_run(con, "run-1").state == "failed"


def test_what_is_not_of_the_index_does_not_count(home):
    folder = make_run(home)
    before = fingerprint(folder)
    (folder / "log.txt").write_text("noise")
    (folder / "measure" / ".prompts.parquet.tmp").write_text("half")
    assert fingerprint(folder) == before


def test_shrinking_a_run_leaves_no_rows_behind(home):
    folder = make_run(home)
    ingest_run(home.index, folder)
    for path in (folder / "measure").iterdir():
        path.unlink()
    (folder / "events.jsonl").unlink()
    assert ingest_run(home.index, folder)
    assert counts(home) == {**dict.fromkeys(WHOLE, 0), "runs": 1}


def damage_events(folder):
    with open(folder / "events.jsonl", "a") as file:
        file.write('{"kind": "train", "st')


def damage_parquet(folder):
    path = folder / "measure" / "positions.parquet"
    path.write_bytes(path.read_bytes()[:-40])


def damage_pages(folder):
    """Whole footer, damaged data: only reading it to the end shows it."""
    path = folder / "measure" / "positions.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)


def wrong_type(folder):
    frames()["positions"].assign(overlap="much").to_parquet(folder / "measure" / "positions.parquet")


def remove_measure(folder):
    for path in (folder / "measure").iterdir():
        path.unlink()
    (folder / "measure").rmdir()


UNMEASURED = dict.fromkeys(["metrics", *PARQUET_TABLES], 0)


DAMAGES = [
    (damage_events, "events.jsonl: 1 torn", {}),
    (damage_parquet, "positions.parquet", {"positions": 0}),
    (damage_pages, "positions.parquet", {"positions": 0}),
    (wrong_type, "positions.parquet: Conversion Error", {"positions": 0}),
    (remove_measure, "measure: missing", UNMEASURED),
    (lambda folder: (folder / "measure" / "tokens.parquet").unlink(), "tokens.parquet: missing", {}),
    (lambda folder: (folder / "measure" / "summary.json").write_text('{"metr'), "summary.json", {"metrics": 0}),
    (lambda folder: (folder / "measure" / "summary.json").unlink(), "summary.json: missing", {"metrics": 0}),
    (lambda folder: (folder / "events.jsonl").write_text('{"kind": "train", "step": "x"}'), "1 event(s)", {"curve": 0}),
    (lambda folder: (folder / "provenance.json").write_bytes(b"\xff{"), "provenance.json", {}),
    (lambda folder: (folder / "config.yaml").write_text("name: [unclosed"), "config.yaml", {}),
    (lambda folder: (folder / "config.yaml").write_text("train: {mode: sideways}"), "config.yaml", {}),
]


def test_a_damaged_part_does_not_lose_the_run(home):
    for number, (damage, _, _) in enumerate(DAMAGES):
        damage(make_run(home, f"run-{number:02}"))
    assert len(ingest_all(home).written) == len(DAMAGES)
    ingest.add_details(home)
    with reading(home.index) as con:
        for number, (_, problem, changed) in enumerate(DAMAGES):
            run_id = f"run-{number:02}"
            found = queries.get_run(con, run_id).problems
            assert (len(found), problem in found[0]) == (1, True), (run_id, problem, found)
            assert row_counts(con, run_id) == WHOLE | changed, (run_id, problem)


def test_a_damaged_status_leaves_the_rest(home):
    folder = make_run(home)
    (folder / "status.json").write_text('{"state": "done", "phase": [1], "created_at": "noon"}')
    contents = read_run(folder)
    assert [problem.split(":")[1].strip() for problem in contents.problems] == ["created_at", "phase"]
    assert (contents.run["state"], contents.run["name"]) == ("done", "demo")
    (folder / "status.json").write_text("[]")
    assert read_run(folder).problems == ["status.json: not a JSON object"]


def test_a_running_run_need_not_be_measured(home):
    folder = make_run(home, state="running")
    remove_measure(folder)
    assert read_run(folder).problems == []


def test_only_a_recipe_is_a_run_already(home):
    folder = home.run("bare")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_recipe(recipe()))
    assert ingest_run(home.index, folder)
    with reading(home.index) as con:
        assert queries.get_run(con, "bare").state is None


def test_senseless_metrics_are_left_out_one_by_one(home):
    folder = make_run(home)
    good = {**KEY, "metric": "exact", "value": 0.5}
    bad = [{**KEY, "value": 0.5}, {**good, "value": "high"}, {**good, "n_tokens": 1.5}, "exact", None]
    (folder / "measure" / "summary.json").write_text(json.dumps({"metrics": [*bad, good]}))
    contents = read_run(folder)
    assert len(contents.metrics) == 1
    assert len(contents.problems) == len(bad)


def test_missing_columns_are_reported_and_unknown_ones_ignored(home):
    folder = make_run(home)
    frame = frames()["rounds"].drop(columns="overhead_s").assign(run_id="stranger", later_idea=1)
    frame.to_parquet(folder / "measure" / "rounds.parquet")
    ingest_run(home.index, folder)
    assert counts(home) == WHOLE
    assert problems(home) == ["rounds.parquet: lacks overhead_s"]
    assert table(home, "rounds").overhead_s.isna().all()
    pd.DataFrame({"other": [1]}).to_parquet(folder / "measure" / "rounds.parquet")
    ingest_run(home.index, folder)
    assert counts(home)["rounds"] == 0


def test_a_file_replaced_while_it_is_read_is_read_again(home, monkeypatch):
    folder = make_run(home)
    check = rows.check_parquet

    def check_then_replace(con, contents):
        readable = check(con, contents)
        monkeypatch.setattr(ingest, "check_parquet", check)
        pd.DataFrame({"other": [1]}).to_parquet(folder / "measure" / "rounds.parquet")
        return readable

    monkeypatch.setattr(ingest, "check_parquet", check_then_replace)
    assert ingest_run(home.index, folder)
    assert counts(home) == WHOLE | {"rounds": 0}


def test_a_folder_that_is_no_run_is_refused(home, tmp_path):
    with pytest.raises(DraftbenchError, match="not a run folder"):
        ingest_run(home.index, tmp_path)


def test_a_folder_whose_name_is_a_pattern_is_not_taken_for_the_one_it_matches(tmp_path):
    home = Home(tmp_path / "home [1]")
    make_run(Home(tmp_path / "home 1"), n_prompts=5)
    ingest_run(home.index, make_run(home))
    assert counts(home) == WHOLE


def test_ingest_all_takes_what_is_new_or_changed(home):
    assert ingest_all(home) == ingest.IngestReport()
    for number in range(3):
        make_run(home, f"run-{number}")
    (home.runs / ".trash").mkdir()
    (home.runs / "empty").mkdir()
    (home.runs / "note.txt").write_text("not a folder")
    assert sorted(ingest_all(home).written) == ["empty", "run-0", "run-1", "run-2"]
    damage_events(home.run("run-1"))
    report = ingest_all(home)
    assert (report.written, report.unchanged, report.failed) == (["run-1"], ["empty", "run-0", "run-2"], {})


def test_ingest_all_goes_on_past_a_run_that_cannot_be_read(home, monkeypatch):
    for number in range(3):
        make_run(home, f"run-{number}")
    read = ingest.read_run

    def fail_once(folder):
        if folder.name == "run-1":
            raise PermissionError("not yours")
        return read(folder)

    monkeypatch.setattr(ingest, "read_run", fail_once)
    report = ingest_all(home)
    assert report.written == ["run-0", "run-2"]
    assert report.failed == {"run-1": "not yours"}


def test_only_runs_whose_folder_is_gone_are_forgotten(home, tmp_path):
    kept, gone = make_run(home, "kept"), make_run(home, "gone")
    outside = make_run(Home(tmp_path / "elsewhere"), "outside")
    for folder in (kept, gone, outside):
        ingest_run(home.index, folder)
    assert ingest_all(home).removed == []
    gone.rename(tmp_path / "gone")
    assert forget(home, ["kept", "outside"]) == []
    assert ingest_all(home).removed == ["gone"]
    assert counts(home, "gone") == dict.fromkeys(WHOLE, 0)
    assert counts(home, "outside") == counts(home, "kept") == WHOLE


def test_a_moved_home_keeps_its_index(home, tmp_path):
    make_run(home)
    ingest_all(home)
    home.root.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    report = ingest_all(moved)
    assert (report.unchanged, report.removed) == (["run-1"], [])


def test_index_and_folders_may_be_reached_by_a_link(home, tmp_path):
    real = make_run(Home(tmp_path / "big-disk"), "real-name")
    home.runs.mkdir(parents=True)
    Path(home.runs / "linked").symlink_to(real)
    assert ingest_all(home).written == ["linked"]
    assert not ingest_run(home.index, home.runs / "linked")
    assert counts(home, "linked") == WHOLE
