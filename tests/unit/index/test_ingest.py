"""Run folders of every kind of health into the index and out again through the queries."""

import json
import os
import threading
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from engine.config.reading import dump_recipe, parse_recipe
from engine.errors import DraftbenchError
from engine.index import changes, ingest, queries, rows
from engine.index.changes import fingerprint
from engine.index.connection import reading, writing
from engine.index.contents import loss_label, read_run
from engine.index.ingest import forget, ingest_all, ingest_run, rebuild
from engine.index.schema import PARQUET_TABLES, RUN_TABLES
from engine.paths import Home
from engine.records.summary import Summary

pytestmark = pytest.mark.slow

KEY = {"draft": "trained", "temperature": 1.0}


def recipe(**changes):
    values = {
        "name": "demo",
        "prompts": {"train": "a.jsonl", "heldout": "b.jsonl", "domain": "law"},
        "tags": ["x", "y"],
    }
    return parse_recipe({**values, **changes})


def frames(n_prompts=2):
    """The four Parquet files of a measurement, small."""
    ids = [f"p{i}" for i in range(n_prompts)]
    counts = {"drafted": 6, "accepted": 4, "rejected": 1, "discarded": 1, "emitted": 6, "rounds": 2}
    return {
        "prompts": pd.DataFrame(
            {**KEY, "prompt_id": ids, "group": "easy", "exact_sum": 1.5, "agree_sum": 2, "n_positions": 3, **counts}
        ),
        "positions": pd.DataFrame(
            [
                {
                    **KEY,
                    "prompt_id": i,
                    "position": n,
                    "token_id": n,
                    "overlap": 0.5,
                    "agree": n > 0,
                    "p": 0.4,
                    "q": 0.3,
                }
                for i in ids
                for n in range(3)
            ]
        ),
        "rounds": pd.DataFrame(
            [
                {
                    **KEY,
                    "prompt_id": i,
                    "round": n,
                    "num_draft_tokens": 3,
                    "accepted": 2,
                    "emitted": 3,
                    "draft_s": 0.1,
                    "verify_s": 0.2,
                    "overhead_s": 0.01,
                }
                for i in ids
                for n in range(2)
            ]
        ),
        "tokens": pd.DataFrame(
            [
                {
                    **KEY,
                    "prompt_id": i,
                    "round": 0,
                    "slot": n,
                    "position": n,
                    "token_id": n,
                    "text": "汉 <b>",
                    "fate": f,
                    "p": 0.4,
                    "q": 0.3,
                    "u": np.nan if f == "bonus" else 0.1,
                    "overlap": 0.5,
                }
                for i in ids
                for n, f in enumerate(["accepted", "accepted", "bonus"])
            ]
        ),
    }


def write_measure(folder, n_prompts=2):
    (folder / "measure").mkdir(exist_ok=True)
    for name, frame in frames(n_prompts).items():
        frame.to_parquet(folder / "measure" / f"{name}.parquet")
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "n_prompts": n_prompts, "n_tokens": 3 * n_prompts}
    conditions = {"num_draft_tokens": 3, "dtype": "float32", "device": "cpu", "heldout_hash": "h", "kernel": "eager"}
    summary = {
        "metrics": [
            {**KEY, "metric": "exact", **interval},
            {**KEY, "metric": "per_proposed", **interval, "low": float("nan"), "acceptance_rule": "sampled"},
        ],
        "conditions": {**conditions, "acceptance_rule": "expected"},
    }
    (folder / "measure" / "summary.json").write_text(json.dumps(summary))


def make_run(home, run_id="run-1", state="done", n_prompts=2, **changes):
    folder = home.run(run_id)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_recipe(recipe(**changes)))
    status = {"state": state, "phase": "end", "created_at": "2025-06-01T10:00:00+00:00"}
    (folder / "status.json").write_text(json.dumps(status))
    events = [{"kind": "train", "step": step, "loss": 1 / step, "seconds": 0.5} for step in range(1, 5)]
    events += [{"kind": "resumed", "step": 2}, {"kind": "train", "step": 3, "loss": 0.3, "seconds": 0.6}]
    events += [{"kind": "eval", "step": 3, "temperature": 1.0, "exact": 0.6, "tokens_seen": 30, "seconds": 0.7}]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "provenance.json").write_text(json.dumps({"git": "abc", "limits": [float("inf")]}))
    write_measure(folder, n_prompts)
    return folder


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home [1] *" / "draft=other")  # names that globbing and hive partitions would trip over


def table(home, name):
    ingest.add_details(home)
    with reading(home.index) as con:
        return con.execute(f'SELECT * EXCLUDE (run_id) FROM "{name}"').df()


def row_counts(con, run_id):
    return {
        name: con.execute(f'SELECT count(*) FROM "{name}" WHERE run_id = ?', [run_id]).fetchone()[0]
        for name in RUN_TABLES
    }


def counts(home, run_id="run-1"):
    ingest.add_details(home)
    with reading(home.index) as con:
        return row_counts(con, run_id)


def problems(home, run_id="run-1"):
    with reading(home.index) as con:
        return queries.get_run(con, run_id).problems


WHOLE = {"runs": 1, "metrics": 2, "curve": 4, "prompts": 2, "positions": 6, "rounds": 4}


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


def test_redone_steps_are_not_in_the_curve(con):
    curve = queries.curve(con, ["run-1", "other"])
    trained = curve[curve.kind == "train"]
    assert list(trained.step) == [1, 2, 3]
    assert list(trained.value) == [1.0, 0.5, 0.3]
    assert curve[curve.kind == "eval"].iloc[0].tokens_seen == 30


# --- damage: what is whole is indexed, the rest is named ---


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


# --- many runs ---


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


def test_rebuild_equals_what_ingest_made(home):
    for number in range(3):
        make_run(home, f"run-{number}")
    ingest_all(home)
    before = {name: table(home, name) for name in RUN_TABLES}
    assert sorted(rebuild(home).written) == ["run-0", "run-1", "run-2"]
    for name, frame in before.items():
        pd.testing.assert_frame_equal(table(home, name), frame)
    assert sorted(path.name for path in home.root.iterdir()) == ["index.duckdb", "index.duckdb.lock", "runs"]


def test_rebuild_forgets_what_has_no_folder_and_clears_up_after_a_killed_one(home):
    make_run(home)
    ingest_all(home)
    with writing(home.index) as con:
        con.execute("INSERT INTO runs (run_id) VALUES ('ghost')")
    leftover = home.root / ".index.duckdb.rebuild-999999999-1"  # above the largest process id of Linux
    own = home.root / f".index.duckdb.rebuild-{os.getpid()}-1"
    leftover.touch()
    own.touch()
    rebuild(home)
    assert counts(home, "ghost")["runs"] == 0
    assert not leftover.exists()
    assert own.exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 10_000])
def test_rebuild_works_over_a_damaged_index_and_its_log(home, content):
    make_run(home)
    with writing(home.index):
        pass
    with duckdb.connect(home.index) as con:
        con.execute("PRAGMA disable_checkpoint_on_shutdown")  # leaves the log that a kill would leave
        con.execute("INSERT INTO runs (run_id) VALUES ('ghost')")
    assert home.index.with_name("index.duckdb.wal").exists()
    home.index.write_bytes(content)
    rebuild(home)
    assert counts(home) == WHOLE
    assert counts(home, "ghost")["runs"] == 0
    assert not home.index.with_name("index.duckdb.wal").exists()


def test_rebuild_of_nothing_is_an_empty_index(home):
    assert rebuild(home).written == []
    with reading(home.index) as con:
        assert queries.overview(con).empty


def test_rebuild_keeps_what_others_index_meanwhile(home, monkeypatch):
    make_run(home, "early")
    build = ingest._ingest_private
    turns = []

    def build_while_another_indexes(database, of_home):
        report = build(database, of_home)
        if not turns:
            thread = threading.Thread(target=lambda: ingest_run(home.index, make_run(home, "late")))
            thread.start()
            thread.join()
        turns.append(report)
        return report

    monkeypatch.setattr(ingest, "_ingest_private", build_while_another_indexes)
    assert rebuild(home).written == ["early", "late"]
    assert counts(home, "late") == counts(home, "early") == WHOLE


def test_a_failing_rebuild_leaves_the_old_index(home, monkeypatch):
    make_run(home)
    ingest_all(home)

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(ingest.os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        rebuild(home)
    assert counts(home) == WHOLE
    assert not list(home.root.glob("*rebuild*"))


# --- queries ---


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    make_run(home, "run-1")
    make_run(home, "run-2", train={"loss": "sft"}, prompts={"train": "a", "heldout": "b", "scenario": "synthetic"})
    ingest_all(home)
    ingest.add_details(home)
    with reading(home.index) as connection:
        yield connection


def test_list_runs_has_a_row_a_run_without_the_long_columns(con):
    runs = queries.overview(con)
    assert sorted(runs.run_id) == ["run-1", "run-2"]
    assert set(runs[runs.run_id == "run-2"].supervision) == {"black_box"}
    assert not {"config", "provenance", "fingerprint"} & set(runs)
    assert list(runs.tags.iloc[0]) == ["x", "y"]


def test_get_run_suggests_the_nearest(con):
    with pytest.raises(DraftbenchError, match="'run-9'") as refused:
        queries.get_run(con, "run-9")
    assert "did you mean 'run-" in refused.value.fix


def test_metrics_carry_their_conditions(con):
    rates = queries.metrics(con, ["run-1"])
    assert list(rates.metric) == ["exact", "per_proposed"]
    assert list(rates.acceptance_rule) == ["expected", "expected"]
    assert rates.low.isna().tolist() == [False, True]
    assert set(rates.num_draft_tokens) == {3}
    assert len(queries.metrics(con, ["run-1", "run-2"])) == 4
    assert list(queries.metrics(con, [])) == list(rates)  # no rows, same columns


def test_a_temperature_stored_as_float32_is_found(home):
    folder = make_run(home)
    frame = frames()["prompts"].assign(temperature=np.float32(0.7))
    frame.to_parquet(folder / "measure" / "prompts.parquet")
    ingest_run(home.index, folder)
    with reading(home.index) as con:
        assert len(queries.prompts_of(con, ["run-1"], 0.7)) == 2


def test_rows_of_the_trained_draft_at_one_temperature(con):
    assert len(queries.prompts_of(con, ["run-1", "run-2"], 1.0)) == 4
    assert len(queries.rounds_of(con, ["run-1"], 1.0)) == 4
    assert len(queries.agreement_of(con, ["run-1"], 1.0)) == 6
    assert queries.rounds_of(con, ["run-1"], 0.5).empty


def test_loss_labels():
    def label(*terms):
        return loss_label(recipe(train={"loss": list(terms)}).train.loss)

    assert label("forward_kl") == "forward_kl"
    assert label({"name": "jsd", "beta": 0.1}) == "jsd(beta=0.1)"
    assert label({"name": "jsd", "eta": 2}) == "jsd"
    assert label({"name": "lk_hybrid", "eta": 2}, {"name": "tvd", "weight": 0.5}) == "lk_hybrid(eta=2) + 0.5*tvd"


def test_index_and_folders_may_be_reached_by_a_link(home, tmp_path):
    real = make_run(Home(tmp_path / "big-disk"), "real-name")
    home.runs.mkdir(parents=True)
    Path(home.runs / "linked").symlink_to(real)
    assert ingest_all(home).written == ["linked"]
    assert not ingest_run(home.index, home.runs / "linked")
    assert counts(home, "linked") == WHOLE


def test_the_overview_holds_the_headline_of_each_run(home):
    folder = make_run(home, "measured")
    summary = json.loads((folder / "measure" / "summary.json").read_text())
    exact = {**KEY, "metric": "exact", "value": 0.3, "low": 0.2, "high": 0.4, "n_prompts": 2, "n_tokens": 6}
    summary["metrics"] += [
        {**exact, "temperature": 0.0},
        {**exact, "temperature": 0.0, "draft": "initial", "value": 0.1},
    ]
    summary["certificate"] = {"passed": True}
    summary["speed"] = {"speedup": {"value": 1.2, "low": 1.1, "high": float("nan")}}
    (folder / "measure" / "summary.json").write_text(json.dumps(summary))
    bare = make_run(home, "bare", state="queued")
    for path in (bare / "measure").iterdir():
        path.unlink()
    ingest_all(home)
    with reading(home.index) as con:
        rows_by_id = queries.overview(con).set_index("run_id")
        whole = queries.get_run(con, "measured")
    measured = rows_by_id.loc["measured"]
    assert (measured.exact, measured.exact_low, measured.temperature, measured.initial) == (0.3, 0.2, 0.0, 0.1)
    assert (bool(measured.certificate), measured.speedup, measured.speedup_low) == (True, 1.2, 1.1)
    assert np.isnan(measured.speedup_high)
    assert np.isnan(rows_by_id.loc["bare"].exact)
    assert rows_by_id.loc["bare"].state == "queued"
    assert len(rows_by_id) == 2
    assert whole.summary.conditions.document()["kernel"] == "eager"
    assert "metrics" not in whole.summary
    assert whole.certificate is True


def test_an_index_of_the_first_schema_is_migrated_and_keeps_its_runs(home, monkeypatch):
    from engine.index import schema

    home.root.mkdir(parents=True)
    with duckdb.connect(str(home.index)) as con:
        schema.migrate(con, schema.MIGRATIONS[:1])
        con.execute("INSERT INTO runs (run_id, name, state, fingerprint) VALUES ('old', 'demo', 'done', 'of then')")
    with reading(home.index) as con:
        assert schema.version(con) == schema.CURRENT
        run = queries.get_run(con, "old")
    assert (run.name, run.pinned, run.certificate, run.summary) == ("demo", False, None, Summary())
    assert run.fingerprint is None  # read again at the next ingest, for the columns it did not have
