"""Labels: what people say of a run, beside its recipe, in the index too."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.index import queries
from engine.index.connection import reading
from engine.index.ingest import ingest_run
from engine.paths import Home
from engine.runs.folder import RunFolder
from engine.runs.labels import LabelConflict, Labels, change_labels, change_seen_labels, read_labels


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "labelled")


def make(home: Home, name: str = "demo") -> RunFolder:
    values = {"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}, "tags": ["first"], "notes": "of the recipe"}
    return RunFolder.create(home, parse_recipe({"name": name, **values}))


def test_a_run_begins_with_the_labels_of_its_recipe(home: Home):
    assert read_labels(make(home)) == Labels(tags=("first",), notes="of the recipe")


def test_a_change_keeps_the_rest_and_leaves_the_recipe_alone(home: Home):
    run = make(home)
    before = (run.path / "config.yaml").read_bytes()
    change_labels(home, run, title="the good one")
    labels = change_labels(home, run, tags=["a", " a ", "", "b"], pinned=True)
    assert labels == Labels(title="the good one", tags=("a", "b"), notes="of the recipe", pinned=True)
    assert read_labels(run) == labels
    assert (run.path / "config.yaml").read_bytes() == before


def test_there_is_one_baseline(home: Home):
    runs = [make(home, name) for name in ("one", "two", "three")]
    for run in runs:
        change_labels(home, run, baseline=True)
    assert [read_labels(run).baseline for run in runs] == [False, False, True]


def test_labels_given_at_once_are_all_kept(home: Home):
    run = make(home)
    changes = [{"title": "t"}, {"pinned": True}, {"archived": True}, {"notes": "n"}, {"tags": ["x"]}]
    threads = [threading.Thread(target=change_labels, args=(home, run), kwargs=change) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_labels(run) == Labels(title="t", tags=("x",), notes="n", pinned=True, archived=True)


@pytest.mark.parametrize("change", [{"titel": "x"}, {"title": "x" * 121}])
def test_what_is_no_label_is_refused_and_changes_nothing(home: Home, change: dict):
    run = make(home)
    with pytest.raises(DraftbenchError):
        change_labels(home, run, **change)
    assert not (run.path / "labels.json").exists()


def test_a_damaged_file_is_named(home: Home):
    run = make(home)
    (run.path / "labels.json").write_text("[1]")
    with pytest.raises(DraftbenchError, match=r"labels\.json"):
        read_labels(run)


def test_the_index_knows_the_labels_as_soon_as_they_change(home: Home):
    run = make(home)
    ingest_run(home.index, run.path)
    change_labels(home, run, title="<b>new</b>", tags=["z"], archived=True)
    assert ingest_run(home.index, run.path)
    with reading(home.index) as con:
        row = queries.overview(con).iloc[0]
        whole = queries.get_run(con, run.id)
    assert (row.title, list(row.tags), bool(row.archived), bool(row.pinned)) == ("<b>new</b>", ["z"], True, False)
    assert (whole.title, whole.tags, whole.notes, whole.archived) == ("<b>new</b>", ["z"], "of the recipe", True)
    assert read_json(run.path / "labels.json")["archived"] is True


def test_damaged_labels_of_another_run_do_not_keep_this_one_from_being_the_baseline(home: Home):
    run, text, null = (make(home, name) for name in ("one", "two", "three"))
    (text.path / "labels.json").write_text("{")
    (null.path / "labels.json").write_text('{"tags": null, "baseline": true}')
    assert change_labels(home, run, baseline=True).baseline
    assert not read_labels(null).baseline
    assert (text.path / "labels.json").read_text() == "{"


def test_a_run_without_its_recipe_can_be_archived(home: Home):
    run = make(home)
    (run.path / "config.yaml").unlink()
    assert change_labels(home, run, archived=True) == Labels(archived=True)


def test_labels_of_another_kind_are_read_as_far_as_they_go(home: Home):
    run = make(home)
    (run.path / "labels.json").write_text('{"title": 5, "tags": null, "notes": null, "pinned": "yes", "new": 1}')
    labels = read_labels(run)
    assert (labels.title, labels.tags, labels.notes, labels.pinned) == ("", (), "", False)


def test_a_form_saves_what_was_edited_in_it_and_nothing_else(home: Home):
    run = make(home)
    seen = read_labels(run)
    change_labels(home, run, title="of another tab", pinned=True)
    labels = change_seen_labels(home, run, seen, replace(seen, notes="mine"))
    assert labels == Labels("of another tab", ("first",), "mine", pinned=True)


def test_what_two_people_edited_is_not_overwritten(home: Home):
    run = make(home)
    seen = read_labels(run)
    change_labels(home, run, title="theirs")
    with pytest.raises(LabelConflict, match="the title of run") as raised:
        change_seen_labels(home, run, seen, replace(seen, title="mine", notes="mine"))
    assert "theirs" in raised.value.why
    assert read_labels(run) == replace(seen, title="theirs")


def test_the_same_edit_by_two_people_is_no_conflict(home: Home):
    run = make(home)
    seen = read_labels(run)
    change_labels(home, run, title="same")
    assert change_seen_labels(home, run, seen, replace(seen, title="same", pinned=True)).pinned
