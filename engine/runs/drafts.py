"""The draft that a recipe starts from: looked up by name or made from layers of its target, and trimmed if asked."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.capture.store import Capture
from engine.config.schema import Recipe
from engine.decode.runner import runner_for
from engine.distill.selection import load_reference
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_json
from engine.models.draft import Draft, initialise_draft, trim
from engine.models.head import DRAFT_IDS
from engine.models.load import LoadedModel
from engine.models.vocabulary import frequent_ids
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


def untrained_draft(home: Home, recipe: Recipe, target: LoadedModel) -> Draft:
    """The draft as its layers or its checkpoint make it, float32, with all its ids; the same whenever asked."""
    spec = recipe.draft
    checkpoint = None if spec.checkpoint is None else draft_folder(home, spec.checkpoint)
    draft = initialise_draft(target, spec, seed=recipe.train.seed, checkpoint=checkpoint)
    if decodes(recipe):  # a draft that cannot be decoded should not be trained first
        runner_for(draft.model, is_draft=True)
    return draft


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
    if name is None:
        return None
    folder = draft_folder(home, name)
    if folder is None:
        raise DraftbenchError(
            f"train.selection.reference {name!r} is not a draft of Draftbench",
            "the gap is taken to a draft of the same target and the same ids",
            "give a run or the folder of a draft",
        )
    return load_reference(folder, draft, target)


def weights_hash(home: Home, name: str | None) -> str | None:
    """The hash of the weights of a named draft; None if there is no name, or it is not a draft of Draftbench."""
    folder = None if name is None else draft_folder(home, name)
    if folder is None:
        return None
    card = read_json(folder / "draft.json")
    return str(card.get("rounded_from") or card["weights_sha256"])
