"""The draft that a recipe starts from: looked up by name or made from layers of its target, and trimmed if asked."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.capture.store import Capture
from engine.config.lora import SHARED_FOLDER
from engine.config.schema import ModelSpec, Recipe
from engine.distill.selection import load_reference
from engine.errors import DraftbenchError, boundary
from engine.fileio import disk_errors, read_json, sha256_file
from engine.models.draft import (
    CARD,
    WEIGHTS,
    Draft,
    DraftInfo,
    initialise_draft,
    load_draft,
    read_card,
    save_draft,
    trim,
    with_adapter,
)
from engine.models.head import DRAFT_IDS, check_head
from engine.models.load import LoadedModel, load_model
from engine.models.vocabulary import check_vocabulary, frequent_ids
from engine.paths import PROJECT_ROOT, Home
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.plan import decodes


def draft_folder(home: Home, name: str) -> Path | None:
    """The draft folder that a path or a run names, or None if it is some other kind of model."""
    with boundary(f"could not look for {name[:80]!a}", "check the path"):
        for folder in (Path(name), PROJECT_ROOT / name):  # a sample run names what ships beside it
            if (folder / "draft.json").exists():
                return folder.resolve()
        if Path(name).exists():
            return None
    try:
        run = RunFolder.open(home, name)
    except DraftbenchError:
        return None
    return best_draft(run)


def untrained_draft(home: Home, recipe: Recipe, target: LoadedModel, *, begun: bool = False) -> Draft:
    """The draft as its layers or its checkpoint make it, float32, with all its ids; the same whenever asked.

    `begun`: as in `initialise_draft`.
    """
    spec = recipe.draft
    checkpoint = None if spec.checkpoint is None else draft_folder(home, spec.checkpoint)
    draft = initialise_draft(target, spec, seed=recipe.train.seed, checkpoint=checkpoint, begun=begun)
    if decodes(recipe):  # a draft that cannot be decoded should not be trained first
        from engine.decode.runner import runner_for  # takes seconds to load, which checks and estimates spare

        runner_for(draft.model, is_draft=True)
    return draft


def draft_as_it_is(home: Home, name: str, target: LoadedModel) -> Draft:
    """A draft with the weights it came with, in the target's dtype: a run's, a folder's, or any model that shares the
    target's vocabulary."""
    folder = draft_folder(home, name)
    if folder is not None:
        return load_draft(folder, target)
    other = load_model(ModelSpec(model=name, device=str(target.draft_device)), dtype=target.dtype_name)
    check_vocabulary(target.tokenizer, other.tokenizer)
    check_head(other.model)
    return Draft(other.model, DraftInfo(target.fingerprint, False, name, []))


def keep_shared(home: Home, run: RunFolder, recipe: Recipe, draft: Draft) -> Path:
    """Keep the draft that a run's adapter is made for in the run, which so needs no other folder; returns where.

    It costs no room where the file system has hard links: the weights are then those of the recipe's checkpoint, or of
    another run with the same shared draft. `draft`: as `untrained_draft` made it.
    """
    place = run.path / "draft" / SHARED_FOLDER
    if (place / CARD).exists():
        return place
    source = None if recipe.draft.checkpoint is None else draft_folder(home, recipe.draft.checkpoint)
    if source is None or read_card(source).info.lora is not None:
        save_draft(place, draft)  # nowhere else as a plain draft
        source = place
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        if not _linked(place, _holders(home, source)) and source != place:
            shutil.copyfile(source / WEIGHTS, place / WEIGHTS)
        if source != place:
            shutil.copyfile(source / CARD, place / CARD)  # last: a folder with a card is whole
    return place


def _linked(place: Path, holders: Iterator[Path]) -> bool:
    """Make the weights in `place` those of a holder, without a copy; False if no file system allows it."""
    temporary = place / f".{WEIGHTS}.new"
    temporary.unlink(missing_ok=True)
    for held in holders:
        if held != place:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(held / WEIGHTS, temporary)
                temporary.replace(place / WEIGHTS)
                return True
    return False


def _holders(home: Home, source: Path) -> Iterator[Path]:
    """The folders that hold the weights of the draft in `source`: itself, and the shared drafts of runs."""
    sha256 = read_card(source).weights_sha256
    yield source
    for card in sorted(home.runs.glob(f"*/draft/{SHARED_FOLDER}/{CARD}")):
        with contextlib.suppress(DraftbenchError):
            if read_json(card).get("weights_sha256") == sha256 == sha256_file(card.parent / WEIGHTS):
                yield card.parent


def adapted(draft: Draft, recipe: Recipe, shared: Path) -> Draft:
    """The draft with the recipe's adapter, fresh; `shared` as `keep_shared` gave it."""
    assert recipe.draft.lora is not None
    return with_adapter(draft, recipe.draft.lora, shared, name=recipe.draft.checkpoint or "", seed=recipe.train.seed)


def trim_to_answers(draft: Draft, target: LoadedModel, size: int, answers: Capture) -> Draft:
    """The draft with a head of `size` ids: those that the target writes most often in its training answers."""
    written = torch.cat([torch.tensor(answer.token_ids) for answer in answers.answers])
    before = getattr(draft.model, DRAFT_IDS, None)
    ids = frequent_ids(
        torch.bincount(written, minlength=target.vocab_rows),
        size,
        always=target.stop_ids,
        then=[] if before is None else before.tolist(),
    )
    return trim(draft, target, ids)


def reference_draft(home: Home, recipe: Recipe, draft: Draft, target: LoadedModel) -> Draft | None:
    """The draft that token selection compares losses with; None if the recipe names none."""
    name = recipe.train.selection.reference
    return None if name is None else load_reference(reference_folder(home, name), draft, target)


def reference_folder(home: Home, name: str) -> Path:
    """The folder of a draft that token selection compares with. Raises DraftbenchError for any other kind of model."""
    folder = draft_folder(home, name)
    if folder is None:
        raise DraftbenchError(
            f"train.selection.reference {name!r} is not a draft of Draftbench",
            "the gap is taken to a draft of the same target and the same ids",
            "give a run or the folder of a draft",
        )
    return folder


def weights_hash(home: Home, name: str | None) -> str | None:
    """The hash of the weights of a named draft; None if there is no name, or it is not a draft of Draftbench."""
    folder = None if name is None else draft_folder(home, name)
    if folder is None:
        return None
    card = read_json(folder / "draft.json")
    return str(card.get("rounded_from") or card["weights_sha256"])
