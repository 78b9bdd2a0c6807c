"""The commands that make a run or a part of one: `run`, `train`, `measure` and `capture`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.keys import confirmed
from engine.cli.options import (
    Json,
    MaybeRecipe,
    MeasureSettings,
    On,
    RecipeFile,
    ResumeRun,
    RunId,
    Settings,
    SkipBad,
    whole_numbers,
)
from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import home

if TYPE_CHECKING:
    from engine.config.schema import Recipe
    from engine.distill.processes import Processes
    from engine.records.summary import Summary
    from engine.runs.folder import RunFolder

MOST_BATCH, MOST_CONTEXT = 1024, 1_000_000
MOST_SHARDS, SHARDS_ON_A_CLUSTER = 10_000, 32


def run(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Check the recipe, estimate time, disk and memory, and start nothing.")
    ] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Run in the background and return at once.")] = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Capture, train, measure and index a run.

    \b
    Example:
      draftbench run recipes/quickstart.yaml --plan
      draftbench run recipes/quickstart.yaml --set train.epochs=4
      draftbench run recipes/jsd.yaml --queue
      draftbench run --resume latest
      draftbench run recipes/jsd.yaml --on ray
    """

    def source() -> Recipe | RunFolder:
        return _recipe_or_run(recipe, resume, settings, skip_bad)

    if plan and (queue or on is not None):
        raise DraftbenchError("--plan with --queue or --on", "a plan starts nothing", "leave one of them out")
    if plan:
        _plan(source(), as_json)
        return
    carry_out(source, queue=queue, on=on, as_json=as_json)


def _plan(source: Recipe | RunFolder, as_json: bool) -> None:
    """Print the checks and the cost of a run; exit with status 1 if a check failed."""
    from engine.cli.text import plan as text
    from engine.planning.checks import checks
    from engine.planning.estimate import estimate
    from engine.runs.folder import RunFolder

    recipe = source.recipe() if isinstance(source, RunFolder) else source
    results, cost = checks(home(), recipe), estimate(home(), recipe)
    if as_json:
        totals = {"memory_bytes": cost.memory_bytes, "disk_bytes": cost.disk_bytes}
        console.print_json({"checks": [asdict(check) for check in results], "cost": {**asdict(cost), **totals}})
    else:
        text.checks(results)
        text.cost(cost)
    if not all(check.ok for check in results):
        raise typer.Exit(1)


def carry_out(source: Callable[[], Recipe | RunFolder], *, queue: bool, on: str | None, as_json: bool) -> None:
    """Work on the run that `source` gives: in the background, at a place, or here."""
    if queue:
        _enqueue(source(), on, as_json)
    elif on is not None:
        _wait_for(source(), on, as_json)
    else:
        _execute(source, "measure", as_json)


def train(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Capture and train without measuring.

    Started by torchrun, several processes share the work of each step.

    \b
    Example:
      draftbench train recipes/quickstart.yaml
      torchrun --nproc-per-node 2 -m engine train recipes/quickstart.yaml
    """
    _execute(lambda: _recipe_or_run(recipe, resume, settings, skip_bad), "train", as_json)


def measure(
    run_id: RunId,
    settings: MeasureSettings = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option("--batch-sizes", help="Only add times of a round at these batch sizes: 1,2,4,8."),
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option("--contexts", help="With --batch-sizes: tokens before a round: 256,1024."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a trained run again.

    With --batch-sizes, add the seconds of a round by batch size and gamma instead: what schedules are made from.

    \b
    Example:
      draftbench measure latest --set measure.num_draft_tokens=5
      draftbench measure latest --batch-sizes 1,2,4,8 --contexts 256,1024
    """
    from engine.cli.text.summary import summary as print_summary
    from engine.records.provenance import Provenance
    from engine.runs.execution import measure_again
    from engine.runs.folder import RunFolder

    folder = RunFolder.open(home(), run_id)
    if batch_sizes is not None or contexts is not None:
        _time_steps(folder, batch_sizes, contexts, settings, as_json)
        return
    summary = measure_again(home(), folder, settings or [])
    if as_json:
        console.print_json({"run": folder.id, **summary.document()})
    else:
        print_summary(folder.id, summary, Provenance.read_or_empty(folder.path))


def _time_steps(
    folder: RunFolder, batch_sizes: str | None, contexts: str | None, settings: list[str] | None, as_json: bool
) -> None:
    from engine.cli.text import expected as text
    from engine.runs.execution import time_steps_again

    if batch_sizes is None:
        raise DraftbenchError("--contexts without --batch-sizes", "a round is timed at both", "add --batch-sizes 1")
    if settings:
        raise DraftbenchError(
            f"--set {settings[0]} with --batch-sizes",
            "timing adds to the measurement as it is, under the settings that it was made with",
            "measure with --set first, then time without it",
        )
    sizes = whole_numbers("--batch-sizes", batch_sizes, most=MOST_BATCH)
    lengths = None if contexts is None else whole_numbers("--contexts", contexts, least=2, most=MOST_CONTEXT)
    times = time_steps_again(home(), folder, sizes, lengths)
    console.print_json({"run": folder.id, **times.document()}) if as_json else text.step_times(folder.id, times)


def capture(
    recipe: RecipeFile,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards",
            min=1,
            max=MOST_SHARDS,
            help="Cut each capture into this many parts; the same command elsewhere takes other parts.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Answer on a cluster: ray, or ray://HOST:PORT. Needs draftbench[cluster]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Capture the target's answers to a recipe's prompts.

    Keeps their text and signal, which every run with the same target and prompts reuses.

    \b
    Example:
      draftbench capture recipes/from_layers.yaml --set capture.signal=compact
      draftbench capture recipes/from_layers.yaml --shards 8
      draftbench capture recipes/from_layers.yaml --shards 8 --on ray
    """
    from engine.cli.text import runs
    from engine.runs.execution import capture_only
    from engine.runs.recipes import read_recipe

    checked = confirmed(read_recipe(home(), recipe, settings or [], skip_bad=skip_bad))
    if on is None or on == "local":
        rows = capture_only(home(), checked, shards=shards)
    else:
        rows = _capture_on(on, checked, shards)
    console.print_json(rows) if as_json else runs.captures(rows)


def _capture_on(address: str, recipe: Recipe, shards: int | None) -> list[dict[str, Any]]:
    """Have a cluster make a recipe's captures. Its target need not fit here: an outline without weights will do."""
    from engine.cluster.shards_on_ray import connected
    from engine.planning.outlines import target_outline
    from engine.runs.execution import capture_only

    with connected(address) as cluster:
        return capture_only(
            home(),
            recipe,
            shards=shards or SHARDS_ON_A_CLUSTER,
            target=target_outline(recipe.target),
            fill_by=lambda progress: cluster.filling(home(), recipe, progress),
        )


def work(on: On = None) -> None:
    """Work through the queue, or drive a cluster. The place starts this command by itself.

    \b
    Example:
      draftbench work
    """
    from engine.jobs.executors import LOCAL, place_at

    place_at(on or LOCAL).work(home())


def _recipe_or_run(
    recipe: str | None, resume: str | None, settings: list[str] | None, skip_bad: bool
) -> Recipe | RunFolder:
    """Read the recipe of a new run, or open the run to resume; refuse to change a run that has begun."""
    from engine.runs.folder import RunFolder
    from engine.runs.recipes import read_recipe

    if (recipe is None) == (resume is None):
        raise DraftbenchError(
            "neither a recipe nor --resume was given" if recipe is None else "both a recipe and --resume were given",
            "a run either starts from a recipe or is resumed from its own folder",
            "for example `draftbench run recipes/quickstart.yaml`, or `draftbench run --resume latest`",
        )
    if recipe is not None:
        return confirmed(read_recipe(home(), recipe, settings or [], skip_bad=skip_bad))
    if settings or skip_bad:
        raise DraftbenchError(
            "--set and --skip-bad cannot change a run that has begun",
            "the run would no longer be what its config.yaml says",
            "start a new run with these options; it reuses the captures",
        )
    return RunFolder.open(home(), resume or "")


def _execute(read: Callable[[], Recipe | RunFolder], until: str, as_json: bool) -> None:
    """Work on the run that `read` gives; in all processes but a launch's first, compute a share of its training."""
    from engine.distill.launching import launched
    from engine.runs.execution import follow

    with launched() as processes:
        if processes.first:
            _work_on(read(), until, as_json, processes)
        else:
            follow(home(), processes)


def _work_on(source: Recipe | RunFolder, until: str, as_json: bool, processes: Processes) -> None:
    from engine.planning.clock import expected_seconds
    from engine.runs.execution import execute
    from engine.runs.folder import RunFolder
    from engine.runs.inputs import check_inputs

    if not isinstance(source, RunFolder):
        check_inputs(home(), [source])
        source = RunFolder.create(home(), source)
    folder = source
    console.err.print(f"run {folder.id} in {folder.path}", markup=False)
    summary = execute(home(), folder, until=until, processes=processes, expect=expected_seconds)
    _print_outcome(folder, summary, as_json)


def _print_outcome(folder: RunFolder, summary: Summary | None, as_json: bool) -> None:
    from engine.cli.text.summary import summary as print_summary
    from engine.records.provenance import Provenance

    if as_json:
        state, measured = folder.status().state, summary.document() if summary else {}
        console.print_json({"run": folder.id, "folder": str(folder.path), "state": state, **measured})
    elif summary:
        print_summary(folder.id, summary, Provenance.read_or_empty(folder.path))
    else:
        console.line(f"run {folder.id} is trained; measure it with `draftbench run --resume {folder.id}`")


def _send(source: Recipe | RunFolder, on: str | None) -> RunFolder:
    from engine.jobs.executors import chosen_place
    from engine.runs.folder import RunFolder

    place = chosen_place(on)
    if isinstance(source, RunFolder):
        return place.resume(home(), source)
    return place.submit_all(home(), [source])[0]


def _wait_for(source: Recipe | RunFolder, on: str, as_json: bool) -> None:
    """Send the run to a place and wait, with a line whenever its state or phase changes. Ctrl-C leaves it at work."""
    from engine.cli.text.following import follow

    folder = _send(source, on)
    console.err.print(f"run {folder.id} in {folder.path}", markup=False)
    follow(home(), folder)
    _print_outcome(folder, folder.summary(), as_json)


def _enqueue(source: Recipe | RunFolder, on: str | None, as_json: bool) -> None:
    folder = _send(source, on)
    if as_json:
        console.print_json({"run": folder.id, "folder": str(folder.path), "state": folder.status().state})
    else:
        console.line(f"run {folder.id} is in the queue; `draftbench runs` shows its progress")
