"""A session of work on a run: the target in memory, the prompts, and the captures of the plan."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from engine.capture.plan import CapturePlan
from engine.capture.shards import FillAll, fill_one_by_one, make_in_shards
from engine.capture.store import Capture, make_capture
from engine.catalogue import check_losses
from engine.chat.template_date import pin_date, reads_clock
from engine.config.reading import dump_recipe
from engine.config.schema import RUN_DATE, CaptureSpec, Recipe
from engine.decode.runner import runner_for
from engine.decode.slot_fit import apart
from engine.distill.processes import ALONE, Processes
from engine.fileio import write_atomic
from engine.models.head import check_head
from engine.models.load import LoadedModel, load_model, with_drafts_on
from engine.models.quantised import is_exact
from engine.numbers import readable_bytes
from engine.paths import Home
from engine.progress import Progress
from engine.runs.began_with import refuse_other_prompts, refuse_other_target
from engine.runs.folder import RunFolder
from engine.runs.plan import PromptSplit, RunPlan, decodes, in_words, split_prompts
from engine.served.capture import check_logprobs, count_served, is_served, make_served


@dataclass(frozen=True)
class Session:
    """One run being worked on. `recipe` and `target.spec` hold the date that the run's chat template writes."""

    home: Home
    run: RunFolder
    recipe: Recipe
    target: LoadedModel
    prompts: PromptSplit
    progress: Progress
    processes: Processes = ALONE  # that train the draft, this one among them

    @cached_property
    def target_float32(self) -> LoadedModel:
        return in_float32(self.target)


def open_session(
    home: Home, run: RunFolder, recipe: Recipe, progress: Progress, processes: Processes = ALONE
) -> Session:
    """Load the target and read the prompts of a run.

    Raises DraftbenchError if the target or the prompts are not those that the run began with.
    """
    target = load_target(recipe)
    refuse_other_target(run, target, progress)
    target = _with_kept_date(run, target, progress)
    recipe = recipe.model_copy(update={"target": target.spec})
    prompts = split_prompts(recipe, target)
    progress.note(f"prompts: {in_words(prompts.counts)}")
    refuse_other_prompts(run, prompts)
    return Session(home, run, recipe, target, prompts, progress, processes)


def load_target(recipe: Recipe) -> LoadedModel:
    """Load the target of a recipe.

    Raises DraftbenchError if it cannot be split at its head, or cannot be decoded where the recipe decodes.
    """
    check_losses(term.name for term in recipe.train.loss)
    target = with_drafts_on(load_model(recipe.target), recipe.draft.device)
    check_head(target.model)
    if decodes(recipe):  # now rather than at the first answer
        runner_for(target.model)
    return target


def in_float32(target: LoadedModel) -> LoadedModel:
    """Return the same target in float32, for checks that must not depend on rounding; itself if it is in float32.

    Quantised layers may round what they read in any dtype, so such a target is returned with plain ones.
    """
    if is_exact(target.model):
        return target
    return replace(load_model(target.spec, dtype="float32"), drafts_on=target.drafts_on)


def _with_kept_date(run: RunFolder, target: LoadedModel, progress: Progress) -> LoadedModel:
    """Give a template that can write today's date that of the run's first day, whenever the run goes on."""
    if target.spec.template_date is not None or not reads_clock(target.tokenizer):
        return target
    date = RUN_DATE + str(run.status().created_at or datetime.date.today())[:10]
    spec = target.spec.model_copy(update={"template_date": date})
    pin_date(target.tokenizer, date)
    # into the run's own recipe, since the session's may measure other things
    write_atomic(run.path / "config.yaml", dump_recipe(run.recipe().model_copy(update={"target": spec})))
    progress.note(f"the chat template can write today's date: target.template_date is {date} from now on")
    return replace(target, spec=spec)


def answering(target: LoadedModel, settings: CaptureSpec, progress: Progress) -> Callable[[CapturePlan], Capture]:
    """What answers the prompts of a plan: the server that `settings` name if its answers are planned, else the target.

    `settings` also say how many prompts the target answers side by side.
    """

    def answer(plan: CapturePlan) -> Capture:
        if settings.server is not None and is_served(plan):
            return make_served(plan, settings.server, target, progress=progress)
        return make_capture(plan, target, batch_size=settings.batch_size, progress=progress)

    return answer


@dataclass(frozen=True)
class Sharding:
    """Into how many shards captures are cut, and by what they are filled; without it by this process."""

    count: int
    fill_all: FillAll | None = None


def capture(
    what: str,
    plan: CapturePlan,
    target: LoadedModel,
    settings: CaptureSpec,
    progress: Progress,
    sharding: Sharding | None = None,
) -> Capture:
    """Make or reuse one capture; says what it will cost before it begins."""
    if (plan.folder / "done.json").exists():
        progress.note(f"capture {plan.address} ({what}): {len(plan.prompts)} prompts, reused")
    else:
        progress.note(
            f"capture {plan.address} ({what}): {len(plan.prompts)} prompts, {plan.signal.kind} signal, "
            f"{plan.signal.bytes_per_token:,} bytes per token, at most {plan.most_tokens:,} tokens = "
            f"{readable_bytes(plan.most_bytes)}"
        )
        is_here = sharding is None or sharding.fill_all is None  # elsewhere, an outline of the target is all there is
        if is_here and settings.server is None and (why := apart(target.model)):
            progress.note(why)
    answer = answering(target, settings, progress)
    if sharding is None:
        return answer(plan)
    return make_in_shards(
        plan,
        sharding.count,
        sharding.fill_all or fill_one_by_one(answer, progress),
        progress=progress,
        server_counts=count_served if is_served(plan) else None,
    )


def capture_for_training(
    plan: RunPlan, recipe: Recipe, target: LoadedModel, progress: Progress, sharding: Sharding | None = None
) -> tuple[Capture | None, dict[float, Capture]]:
    """Make or reuse the captures that a training needs: training answers, unless decoded meanwhile, and watched ones.

    Where the draft will be measured against a server, the server must first show that it tells what is needed.
    """
    settings = recipe.capture
    if recipe.measure.against == "server" and settings.server is not None:
        for heldout in plan.heldout.values():
            check_logprobs(heldout, settings.server, target, progress=progress)
    training = capture_training(plan, recipe, target, progress, sharding)
    return training, capture_heldout(plan.watched, target, settings, progress, sharding)


def capture_training(
    plan: RunPlan, recipe: Recipe, target: LoadedModel, progress: Progress, sharding: Sharding | None = None
) -> Capture | None:
    """Make or reuse the capture of the training answers; None if they are decoded meanwhile."""
    if plan.training is None or plan.decodes_training:
        return None
    return capture("training", plan.training, target, recipe.capture, progress, sharding)


def capture_heldout(
    plans: Mapping[float, CapturePlan],
    target: LoadedModel,
    settings: CaptureSpec,
    progress: Progress,
    sharding: Sharding | None = None,
) -> dict[float, Capture]:
    """Make or reuse the held-out captures of some temperatures."""
    return {t: capture(f"held-out T={t:g}", plan, target, settings, progress, sharding) for t, plan in plans.items()}
