"""The commands that make a run or a part of one: `run`, `train`, `measure` and `capture`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.keys import confirmed
from engine.cli.options import Json, MaybeRecipe, RecipeFile, ResumeRun, RunId, Settings, SkipBad, whole_numbers
from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import home

if TYPE_CHECKING:
    from engine.config.schema import Recipe
    from engine.distill.processes import Processes
    from engine.runs.folder import RunFolder

MOST_BATCH, MOST_CONTEXT = 1024, 1_000_000


def run(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    queue: Annotated[bool, typer.Option("--queue", help="Run in the background and return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Capture, train, measure and index a run.

    \b
    Example:
      draftbench run recipes/quickstart.yaml --set train.epochs=4
      draftbench run recipes/jsd.yaml --queue
      draftbench run --resume latest
    """

    def source() -> Recipe | RunFolder:
        return _recipe_or_run(recipe, resume, settings, skip_bad)

    if queue:
        _enqueue(source(), as_json)
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
    settings: Settings = None,
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


def capture(recipe: RecipeFile, settings: Settings = None, skip_bad: SkipBad = False, as_json: Json = False) -> None:
    """Capture the target's answers to a recipe's prompts.

    Keeps their text and signal, which every run with the same target and prompts reuses.

    \b
    Example:
      draftbench capture recipes/from_layers.yaml --set capture.signal=compact
    """
    from engine.cli.text import runs
    from engine.runs.execution import capture_only
    from engine.runs.recipes import read_recipe

    rows = capture_only(home(), confirmed(read_recipe(home(), recipe, settings or [], skip_bad=skip_bad)))
    console.print_json(rows) if as_json else runs.captures(rows)


def work() -> None:
    """Work through the queue, one run after another. The queue starts this command by itself.

    \b
    Example:
      draftbench work
    """
    from engine.jobs.queue import work as work_off

    work_off(home())


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
    from engine.cli.text.summary import summary as print_summary
    from engine.records.provenance import Provenance
    from engine.runs.execution import execute
    from engine.runs.folder import RunFolder

    folder = source if isinstance(source, RunFolder) else RunFolder.create(home(), source)
    console.err.print(f"run {folder.id} in {folder.path}", markup=False)
    summary = execute(home(), folder, until=until, processes=processes)
    if as_json:
        state, measured = folder.status().state, summary.document() if summary else {}
        console.print_json({"run": folder.id, "folder": str(folder.path), "state": state, **measured})
    elif summary:
        print_summary(folder.id, summary, Provenance.read_or_empty(folder.path))
    else:
        console.line(f"run {folder.id} is trained; measure it with `draftbench run --resume {folder.id}`")


def _enqueue(source: Recipe | RunFolder, as_json: bool) -> None:
    from engine.jobs.executors import chosen_place
    from engine.runs.folder import RunFolder

    place = chosen_place()
    if isinstance(source, RunFolder):
        folder = place.resume(home(), source)
    else:
        (folder,) = place.submit_all(home(), [source])
    if as_json:
        console.print_json({"run": folder.id, "folder": str(folder.path), "state": folder.status().state})
    else:
        console.line(f"run {folder.id} is in the queue; `draftbench runs` shows its progress")
