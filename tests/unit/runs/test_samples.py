"""Sample runs: laid into a home once, whole, and never forced upon it again."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config.reading import dump_recipe, parse_recipe
from engine.errors import DraftbenchError
from engine.index.contents import read_run
from engine.paths import PROJECT_ROOT, Home, resolve_input
from engine.runs.folder import RunFolder
from engine.runs.samples import lay_out_samples, sample_folders


@pytest.fixture
def source(tmp_path: Path) -> Path:
    recipe = parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})
    for name in ("one", "two"):
        folder = tmp_path / "source" / name
        (folder / "measure").mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    (tmp_path / "source" / "no-run").mkdir()
    return tmp_path / "source"


def test_samples_are_laid_out_once_and_stay_away_when_removed(tmp_path: Path, source: Path):
    home = Home(tmp_path / "fresh")
    assert lay_out_samples(home, source) == ["one", "two"]
    shutil.rmtree(home.run("one"))
    assert lay_out_samples(home, source) == []
    assert not home.run("one").exists()


def test_a_copy_that_fails_leaves_nothing_and_keeps_what_came_before(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
):
    home, copy = Home(tmp_path / "fresh"), shutil.copytree

    def full_disk(folder: Path, place: Path, *more: Any, **options: Any) -> Path:
        if Path(folder).name == "two":
            (place / "half").mkdir(parents=True)
            raise OSError(errno.ENOSPC, "full")
        return Path(copy(folder, place, *more, **options))

    monkeypatch.setattr(shutil, "copytree", full_disk)
    with pytest.raises(DraftbenchError, match="disk is full"):
        lay_out_samples(home, source)
    monkeypatch.undo()
    assert [path.name for path in home.runs.iterdir()] == ["one"]
    shutil.rmtree(home.run("one"))
    assert lay_out_samples(home, source) == ["two"]


def test_samples_can_be_left_out(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DRAFTBENCH_SAMPLES", "0")
    assert lay_out_samples(Home(tmp_path / "fresh"), source) == []


@pytest.mark.slow
def test_the_shipped_runs_are_whole_measured_and_name_no_folder_of_anybody():
    folders = sample_folders()
    assert len(folders) >= 6
    for folder in folders:
        found = read_run(folder)
        assert (found.run["state"], found.run["certificate"], found.problems) == ("done", True, []), folder.name
        assert {row["metric"] for row in found.metrics} >= {"exact", "tau", "per_proposed"}
        recipe = RunFolder(folder).recipe()
        paths = [source.path for source in (*recipe.prompts.train, *recipe.prompts.heldout)]
        for path in filter(None, (*paths, recipe.target.adapter, recipe.draft.checkpoint)):
            assert not Path(path).is_absolute()
            assert path.startswith("pack:") or resolve_input(path).is_relative_to(PROJECT_ROOT)
    assert any((folder / "draft" / "best" / "draft.json").exists() for folder in folders)


def test_samples_that_are_asked_for_are_laid_in_again_and_what_is_there_stays(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DRAFTBENCH_SAMPLES", "0")
    home = Home(tmp_path / "fresh")
    assert lay_out_samples(home, source, asked=True) == ["one", "two"]
    shutil.rmtree(home.run("one"))
    (home.run("two") / "labels.json").write_text("{}")
    assert lay_out_samples(home, source) == []
    assert lay_out_samples(home, source, asked=True) == ["one"]
    assert (home.run("two") / "labels.json").exists()
