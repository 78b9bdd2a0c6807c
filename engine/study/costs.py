"""Time and disk of a study's missing cells, each capture counted once. Needs torch, reads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.config.schema import Recipe
from engine.data.subsets import nested_subset
from engine.errors import DraftbenchError
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.planning.estimate import capture_cost, estimate
from engine.planning.outlines import target_outline
from engine.progress import SILENT, Progress
from engine.runs.plan import RunPlan, plan_run, plan_training, split_prompts
from engine.study.state import Placed

_UNFINISHED = ("to do", "stopped", "failed", "waiting", "running")


@dataclass(frozen=True)
class Costs:
    """Time and disk of the unfinished cells; None and a reason where not known."""

    captures: int  # distinct ones that the whole study needs
    captures_there: int
    seconds: float | None
    disk_bytes: int | None
    unknown: str = ""
    based_on: str = ""  # the run that time is scaled from
    estimated: int = 0  # cells that were estimated; the others were taken to be like one of them
    notes: tuple[str, ...] = ()  # where the prompts are not as the recipe asks, such as too few queries

    def as_dict(self) -> dict[str, object]:
        """The fields by name."""
        return dict(vars(self))


def costs(home: Home, placed: Sequence[Placed], progress: Progress = SILENT) -> Costs:
    """The costs of a study's unfinished cells. Never raises for what is unknown."""
    try:
        plans, notes = _plans(home, [one.cell.recipe for one in placed], progress)
    except DraftbenchError as error:
        return Costs(0, 0, None, None, unknown=f"not known: {error.what}")
    distinct = {plan.folder: plan for cell in plans.values() for plan in cell.captures.values()}
    there = sum((folder / "done.json").exists() for folder in distinct)
    unfinished = [one.cell.recipe for one in placed if one.state in _UNFINISHED]
    if not unfinished:
        return Costs(len(distinct), there, 0.0, 0, notes=notes)
    return _summed(home, unfinished, plans, (len(distinct), there), notes)


def _summed(
    home: Home,
    recipes: Sequence[Recipe],
    plans: Mapping[str, RunPlan],
    captures: tuple[int, int],
    notes: tuple[str, ...],
) -> Costs:
    """Each kind of cell estimated once and counted as often as it occurs; each open capture once."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(_kind(recipe), []).append(recipe)
    seconds, disk, passing, known_time, known_disk, unknown, based = 0.0, 0, 0, True, True, "", ""
    open_captures: dict[object, tuple[int, float | None]] = {}
    for group in groups.values():
        one = estimate(home, group[0], plans[_prompts_key(group[0])])
        unknown = unknown or one.seconds_unknown or one.disk_unknown
        based = based or one.based_on
        known_time &= bool(one.seconds)
        known_disk &= one.disk_bytes is not None
        seconds += len(group) * sum(value for part, value in one.seconds.items() if part != "capture")
        disk += len(group) * sum(value for part, value in one.lasting.items() if part != "captures")
        passing = max(passing, one.passing_bytes)
    for recipe in {_prompts_key(recipe): recipe for recipe in recipes}.values():
        for plan in plans[_prompts_key(recipe)].captures.values():
            if plan.folder not in open_captures:
                open_captures[plan.folder] = capture_cost(home, recipe, plan)
    known_time &= all(took is not None for _, took in open_captures.values())
    seconds += sum(took or 0.0 for _, took in open_captures.values())
    disk += passing + sum(size for size, _ in open_captures.values())
    return Costs(
        *captures,
        seconds if known_time else None,
        disk if known_disk else None,
        unknown or ("" if known_time else "not known yet: no earlier run tells how long a capture takes"),
        based,
        len(groups),
        notes,
    )


def _kind(recipe: Recipe) -> str:
    """Cells with one key are taken to cost the same: they differ in loss, seed and prompts alone."""
    train = recipe.train.model_dump(exclude={"loss", "seed"})
    return repr((recipe.target, recipe.prompts.train_prompts, recipe.capture, recipe.draft, train, recipe.measure))


def _prompts_key(recipe: Recipe) -> str:
    return repr((_source_key(recipe), recipe.prompts.train_prompts, recipe.train.needs_capture))


def _source_key(recipe: Recipe) -> str:
    """What the captures depend on, but for the number of queries."""
    prompts = recipe.prompts.model_dump(exclude={"train_prompts", "domain", "scenario"})
    measure, watched = recipe.measure, recipe.train.eval_prompts
    held = (measure.temperatures, measure.top_p, measure.top_k, measure.max_new_tokens, measure.heldout_prompts)
    return repr((recipe.target, prompts, recipe.capture, held, measure.seed, watched))


def _plans(home: Home, recipes: Sequence[Recipe], progress: Progress) -> tuple[dict[str, RunPlan], tuple[str, ...]]:
    """The captures of every distinct set of prompts, each source read once; and notes on sources that are too small."""
    sources: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        sources.setdefault(_source_key(recipe), []).append(recipe)
    plans: dict[str, RunPlan] = {}
    notes: dict[str, None] = {}
    outlines: dict[str, LoadedModel] = {}
    progress.start("reading prompts", len(sources), "sets")
    for group in sources.values():
        outline = _outline(group[0], outlines)
        whole = group[0].prompts.model_copy(update={"train_prompts": None})
        prompts = split_prompts(group[0].model_copy(update={"prompts": whole}), outline)
        shared = plan_run(home.captures, group[0], outline, replace(prompts, train=[]))  # those differ by cell
        for recipe in {_prompts_key(recipe): recipe for recipe in group}.values():
            training, decodes = None, not recipe.train.needs_capture
            try:
                queries = nested_subset(prompts.train, recipe.prompts.train_prompts)
                training = plan_training(home.captures, recipe, outline, queries)
            except DraftbenchError as error:
                notes[f"{recipe.prompts.domain}, {recipe.prompts.scenario}: {error.what}"] = None
            plans[_prompts_key(recipe)] = replace(shared, training=training, decodes_training=decodes)
        progress.advance()
    progress.finish()
    return plans, tuple(notes)


def _outline(recipe: Recipe, outlines: dict[str, LoadedModel]) -> LoadedModel:
    """The recipe's target without its weights, built once per study."""
    key = repr(recipe.target)
    if key not in outlines:
        outline = target_outline(recipe.target)
        if outline is None:
            raise DraftbenchError(f"{recipe.target.model} is fetched when the first run begins")
        outlines[key] = outline
    return outlines[key]
