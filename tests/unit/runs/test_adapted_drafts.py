"""A run whose draft is an adapter on a shared draft: from recipe to measurement, resumed, compared, and copied."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config.reading import parse_recipe, recipe_values, with_settings
from engine.errors import DraftbenchError
from engine.export.small_draft import pack_draft
from engine.fileio import read_lines, sha256_file
from engine.paths import home
from engine.planning.checks import checks
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs import drafts
from engine.runs.draft_size import draft_size
from engine.runs.folder import RunFolder
from engine.runs.pair import load_pair
from engine.runs.recipes import with_absolute_paths
from engine.runs.removing import remove_run
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow

LORA = ["draft={init: checkpoint, checkpoint: tiny, lora: {rank: 2, alpha: 8}}", "train.learning_rate=0.01"]


def lora_run(draftbench: Draftbench, recipe: Path, *more: str) -> Any:
    """A run of an adapter on the draft of the finished run `tiny`."""
    settings = [part for change in (*LORA, *more) for part in ("--set", change)]
    result = draftbench("run", str(recipe), "--json", *settings)
    assert result.code == 0, result.err
    return result.json()


def exact(document: Any, draft: str) -> list[float]:
    return [m["value"] for m in document["metrics"] if (m["draft"], m["metric"]) == (draft, "exact")]


def test_from_recipe_to_measurement_and_comparison(finished_home: Path, recipe: Path, draftbench: Draftbench):
    first = RunFolder.open(home(), "latest")
    document = lora_run(draftbench, recipe, "name=adapted")
    assert document["certificate"]["passed"]
    assert exact(document, "initial") == pytest.approx(exact(first.summary().document(), "trained"))
    run = RunFolder.open(home(), "adapted")
    assert {p.name for p in (run.path / "draft").iterdir()} == {"best", "last", "shared"}
    shared, source = (folder / "draft.safetensors" for folder in (run.path / "draft/shared", first.path / "draft/best"))
    assert shared.samefile(source), "a link, which costs no room"

    origin = Provenance.read(run.path)
    assert origin is not None
    assert origin.draft_parameters is not None
    size = 2 * 2 * (4 * 32 + 2 * (32 + 16) + 3 * (32 + 64))  # layers x rank x (in + out) of q and o, k and v, the MLP
    assert origin.draft_parameters.trained == size
    events = [event for event in read_lines(run.path / "events.jsonl") if event["kind"] == "draft"]
    assert [(event["trained"], event["lora_rank"]) for event in events] == [(size, 2)]
    assert (run.path / "draft/best/draft.safetensors").stat().st_size < source.stat().st_size

    compared = draftbench("compare", first.id, run.id, "--json").json()
    assert compared["sizes"]["b"]["trained_parameters"] == size
    assert compared["sizes"]["b"]["shared_megabytes"] == compared["sizes"]["a"]["megabytes"]
    assert f"{size:,} of them trained" in draftbench("show", run.id).out
    printed = draftbench("compare", first.id, run.id).out
    assert f"{size:,}" in printed
    assert "shared draft" in printed


def test_its_draft_needs_no_other_run_and_goes_with_its_folder(
    finished_home: Path, recipe: Path, draftbench: Draftbench, tmp_path: Path
):
    first = RunFolder.open(home(), "latest")
    lora_run(draftbench, recipe, "name=adapted")
    run = RunFolder.open(home(), "adapted")
    hashed = sha256_file(run.path / "draft/shared/draft.safetensors")
    with pytest.raises(DraftbenchError, match="is an adapter"):
        pack_draft(run.path / "draft" / "best", tmp_path / "packed")
    remove_run(home(), first)
    assert sha256_file(run.path / "draft/shared/draft.safetensors") == hashed
    assert load_pair(home(), run_id=run.id).draft is not None
    copied = tmp_path / "elsewhere"
    shutil.copytree(run.path / "draft", copied)
    assert load_pair(home(), run_id=None, target=run.recipe().target.model, draft=str(copied / "best")).draft
    shutil.rmtree(copied / "shared")
    refused = draftbench(
        "decode", "--target", run.recipe().target.model, "--draft", str(copied / "best"), "--prompt", "a"
    )
    assert refused.code == 2
    assert "on a shared draft" in refused.err
    changes = with_settings(
        recipe_values(recipe), {"draft": {"init": "checkpoint", "checkpoint": str(copied / "best")}}
    )
    checked = {
        check.name: check for check in checks(home(), with_absolute_paths(parse_recipe(changes), recipe.parent, home()))
    }
    assert "on a shared draft" in checked["draft"].message


def test_where_links_are_not_possible_the_shared_draft_is_copied_once_for_all(
    finished_home: Path, recipe: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    first, link = RunFolder.open(home(), "latest"), os.link
    with monkeypatch.context() as patch:

        def other_disk(source: Any, place: Any) -> None:
            if Path(source).parent == first.path / "draft" / "best":
                raise OSError("another file system")
            link(source, place)

        patch.setattr(drafts.os, "link", other_disk)
        lora_run(draftbench, recipe, "name=one")
        lora_run(draftbench, recipe, "name=two", "train.seed=1")
    one, two = (RunFolder.open(home(), name).path / "draft/shared/draft.safetensors" for name in ("one", "two"))
    source = first.path / "draft/best/draft.safetensors"
    assert not one.samefile(source)
    assert one.samefile(two)
    assert sha256_file(one) == sha256_file(source)


def test_from_layers_of_the_target_the_run_keeps_the_draft_that_it_began_with(
    finished_home: Path, recipe: Path, draftbench: Draftbench
):
    result = draftbench("run", str(recipe), "--json", "--set", "draft.lora.rank=2", "--set", "name=layers")
    assert result.code == 0, result.err
    run = RunFolder.open(home(), "layers")
    size = draft_size(run)
    assert size.shared_megabytes
    assert size.megabytes
    assert size.megabytes < size.shared_megabytes
    assert load_pair(home(), run_id=run.id).draft is not None


def test_a_run_that_was_stopped_ends_with_the_same_adapter(
    finished_home: Path, recipe: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    lora_run(draftbench, recipe, "name=whole")
    advance, seen = Progress.advance, []

    def cut(self: Progress, units: int = 1, **numbers: Any) -> None:
        advance(self, units, **numbers)
        if "loss" in numbers:
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt

    settings = [part for change in (*LORA, "name=cut") for part in ("--set", change)]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", cut)
        assert draftbench("run", str(recipe), *settings).code == 130
    assert draftbench("run", "--resume", "cut").code == 0
    whole, resumed = (RunFolder.open(home(), name).path / "draft" for name in ("whole", "cut"))
    for which in ("best", "last"):
        assert (whole / which / "draft.safetensors").read_bytes() == (
            resumed / which / "draft.safetensors"
        ).read_bytes()


def test_a_vocabulary_of_its_own(finished_home: Path, recipe: Path, draftbench: Draftbench):
    document = lora_run(draftbench, recipe, "name=trimmed", "draft.vocabulary=80")
    run = RunFolder.open(home(), "trimmed")
    card = json.loads((run.path / "draft/best/draft.json").read_text(encoding="utf-8"))
    assert card["info"]["vocabulary"] == 80
    assert card["info"]["lora"]["rank"] == 2
    assert document["certificate"]["passed"]
