"""A target and its draft, loaded by name: a run's pair, or a target with any draft that fits it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config.schema import DEFAULT_TARGET, ModelSpec
from engine.errors import DraftbenchError
from engine.models.draft import Draft, load_draft
from engine.models.head import check_head
from engine.models.load import LoadedModel, load_model, with_drafts_on
from engine.paths import Home
from engine.progress import SILENT, Progress
from engine.runs.advice import best_draft
from engine.runs.began_with import check_target
from engine.runs.drafts import draft_as_it_is
from engine.runs.folder import RunFolder


@dataclass(frozen=True)
class NamedPair:
    """A target in memory and perhaps a draft, with the name that the draft was asked for by."""

    target: LoadedModel
    draft: Draft | None
    draft_name: str | None


def load_pair(
    home: Home,
    *,
    run_id: str | None,
    target: str | None = None,
    draft: str | None = None,
    dtype: str = "auto",
    progress: Progress = SILENT,
) -> NamedPair:
    """Load the target and the best draft of a run or, without a run, the target and the draft of those names.

    Raises DraftbenchError if the run has no draft or began with another target, the names do not go together, or the
    models do not.
    """
    precision = None if dtype == "auto" else dtype
    if run_id is None:
        loaded = load_model(ModelSpec(model=target or DEFAULT_TARGET), dtype=precision)
        pair = NamedPair(loaded, None if draft is None else draft_as_it_is(home, draft, loaded), draft)
    else:
        if target or draft:
            raise DraftbenchError(
                "--run does not go together with --target or --draft",
                "a run names its own pair",
                "leave --run out, and give the run as --draft for another target",
            )
        run = RunFolder.open(home, run_id)
        best = best_draft(run)
        recipe = run.recipe()
        if note := check_target(run, recipe.target):
            progress.note(note)
        loaded = with_drafts_on(load_model(recipe.target, dtype=precision), recipe.draft.device)
        pair = NamedPair(loaded, load_draft(best, loaded), run.id)
    check_head(loaded.model)
    return pair
