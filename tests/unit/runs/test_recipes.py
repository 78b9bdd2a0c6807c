"""A recipe read for a run can be resumed from anywhere: no path in it is relative."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.reading import load_recipe
from engine.errors import DraftbenchError
from engine.numbers import readable_bytes
from engine.paths import home
from engine.runs.drafts import draft_folder
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe


def test_paths_beside_the_recipe_become_absolute(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    made = read_recipe(home(), str(recipe), [], skip_bad=False)
    for source in (*made.prompts.train, *made.prompts.heldout):
        assert Path(source.path).is_absolute()
        assert Path(source.path).exists()


def test_settings_win_over_the_file_and_skip_bad_over_both(recipe: Path):
    made = read_recipe(home(), str(recipe), ["train.epochs=3", "prompts.skip_bad=false"], skip_bad=True)
    assert made.train.epochs == 3
    assert made.prompts.skip_bad
    assert load_recipe(recipe).train.epochs == 2


def test_a_checkpoint_is_a_folder_beside_the_recipe_or_the_whole_id_of_a_run(finished_home: Path, recipe: Path):
    run = RunFolder.open(home(), "latest")
    made = read_recipe(home(), str(recipe), ["draft={init: checkpoint, checkpoint: tiny-}"], skip_bad=False)
    assert made.draft.checkpoint == run.id
    path = run.path / "draft" / "best"
    made = read_recipe(home(), str(recipe), [f"draft={{init: checkpoint, checkpoint: {path}}}"], skip_bad=False)
    assert made.draft.checkpoint == str(path)
    with pytest.raises(DraftbenchError, match="no such file or folder: nobody"):
        read_recipe(home(), str(recipe), ["draft={init: checkpoint, checkpoint: nobody}"], skip_bad=False)


def test_a_draft_is_named_by_its_folder_or_its_run(finished_home: Path, tmp_path: Path):
    best = RunFolder.open(home(), "latest").path / "draft" / "best"
    assert draft_folder(home(), "latest") == draft_folder(home(), "tiny") == draft_folder(home(), str(best)) == best
    assert draft_folder(home(), str(tmp_path)) is None, "a folder that is some other model"
    assert draft_folder(home(), "hub:someone/something") is None
    with pytest.raises(DraftbenchError, match="could not look for 'aaa"):
        draft_folder(home(), "a" * 5000)
    (best / "draft.json").unlink()
    with pytest.raises(DraftbenchError, match="has no draft"):
        draft_folder(home(), "latest")


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 bytes"), (999, "999 bytes"), (18432, "18.4 kB"), (43_263_360, "43.3 MB")]
)
def test_sizes_are_readable(count: int, expected: str):
    assert readable_bytes(count) == expected
