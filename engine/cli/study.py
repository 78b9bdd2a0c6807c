"""The `draftbench study` commands: plan, run and show a grid of runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from engine.cli.keys import confirmed
from engine.cli.options import Json, On, Settings
from engine.cli.text import console
from engine.paths import home

if TYPE_CHECKING:
    from engine.study.start import Study

StudyName = Annotated[str, typer.Argument(help="Name of a study, or its recipe file.")]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Only cells with this label: --only domain=biology. Repeatable.")
]


class RunByDefault(TyperGroup):
    """`study RECIPE` means `study run RECIPE`: an argument that names no subcommand is passed to `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with `run` before them if they name no subcommand."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


study_app = typer.Typer(cls=RunByDefault, no_args_is_help=True)


@study_app.callback()
def study() -> None:
    """Run a grid of recipes that share captures. `study RECIPE` is short for `study run RECIPE`.

    \b
    Example:
      draftbench study recipes/studies/smoke.yaml
    """


@study_app.command("run")
def study_run(
    recipe: Annotated[str, typer.Argument(help="Recipe file of a study, or the name of a study started here.")],
    settings: Settings = None,
    only: Only = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and start nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking for confirmation.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Return as soon as the runs are in the queue.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed/--leave-failed", help="Run cells that failed before again.")
    ] = True,
    estimate: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Estimate time and disk space, which reads all prompts.")
    ] = True,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Plan a study, queue its missing cells and wait for them.

    \b
    Example:
      draftbench study recipes/studies/smoke.yaml --plan
      draftbench study recipes/studies/first.yaml --only domain=biology --queue
      draftbench study recipes/studies/first.yaml --on ray://head:10001
    """
    from engine.cli.text import study as text
    from engine.study.known import find
    from engine.study.start import start
    from engine.study.start import study as current_state

    where = home()
    planned = current_state(where, find(where, recipe, settings or []), only or [])
    if not as_json:
        text.states(planned.name, planned.counts)
        text.passed_over(planned.passed_over)
    costs = _costs(planned, as_json) if estimate else {}
    if plan:
        if as_json:
            console.print_json({**_as_json(planned), "costs": costs})
        return
    missing = planned.missing(retry_failed=retry_failed)
    if missing and not yes and not as_json and sys.stdin.isatty():
        typer.confirm(f"Start {len(missing)} runs?", abort=True, default=True)
    for cell in missing:
        confirmed(cell.cell.recipe)
    started = start(where, planned, retry_failed=retry_failed, on=on)
    if not as_json:
        console.line(f"{len(started.submitted)} runs queued, {len(started.resumed)} resumed")
    now = current_state(where, planned.spec, only or []) if queue else _wait(planned)
    if as_json:
        submitted, resumed = ([run.id for run in runs] for runs in (started.submitted, started.resumed))
        console.print_json({**_as_json(now), "submitted": submitted, "resumed": resumed})
    else:
        if not queue:
            text.states(now.name, now.counts)
        console.line(f"`draftbench study show {now.name}` shows the results so far")
    if not queue and now.counts.get("done", 0) < len(now.placed):
        raise typer.Exit(1)


def _costs(planned: Study, as_json: bool) -> dict[str, Any]:
    """What the unfinished cells will cost; nothing is estimated once all are done."""
    if planned.counts.get("done", 0) == len(planned.placed):
        return {}
    from engine.cli.text import study as text
    from engine.progress import Progress
    from engine.study.costs import costs

    estimate = costs(home(), planned.placed, Progress(quiet=as_json))
    if not as_json:
        text.costs(estimate)
    return estimate.as_dict()


def _wait(planned: Study) -> Study:
    """Wait until no cell is queued or running, with a line for each cell that changes its state, and why cells wait."""
    from engine.cli.text.following import NewLines
    from engine.study.start import wait

    now, before, log, said = planned, planned, NewLines(), set[str]()
    try:
        for now in wait(home(), planned):
            states = {one.cell.key: one.state for one in before.placed}
            for one in now.placed:
                if states[one.cell.key] != one.state and one.state != "waiting":
                    console.err.print(
                        f"{now.counts.get('done', 0)}/{len(now.placed)} done; {one.state}: {one.cell.name}",
                        markup=False,
                    )
            for run, state in [(one.run, one.state) for one in now.placed if one.run is not None]:
                if state != "waiting":
                    log.forget(run)
                    continue
                for line in log.read(run):  # such as that no node has what it asks for, which many runs may say
                    if line not in said:
                        console.err.print(f"{run.id}: {line}", markup=False)
                        said.add(line)
            before = now
    except KeyboardInterrupt:
        console.err.print(
            f"The queue keeps working on study {planned.name}. `draftbench study {planned.name}` waits for it again; "
            "`draftbench runs cancel RUN` stops a run.",
            markup=False,
        )
        raise typer.Exit(130) from None
    return now


def _as_json(current: Study) -> dict[str, Any]:
    return {
        "study": current.name,
        "counts": current.counts,
        "cells": [
            {
                "cell": one.cell.name,
                "state": one.state,
                "run": one.run.id if one.run else None,
                "labels": dict(one.cell.labels),
            }
            for one in current.placed
        ],
    }


@study_app.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies of your home, newest first.

    \b
    Example:
      draftbench study list
    """
    from engine.cli.text import study as text
    from engine.study.overview import overview

    rows = overview(home())
    if as_json:
        console.print_json(rows)
    elif rows:
        text.known(rows)
    else:
        console.line("there are no studies; start one with `draftbench study recipes/studies/smoke.yaml`")


@study_app.command("show")
def study_show(name: StudyName, only: Only = None, as_json: Json = False) -> None:
    """Show a study's cells and its modes compared.

    \b
    Example:
      draftbench study show recipes/studies/first.yaml --only domain=biology
    """
    from engine.cli.text import study as text
    from engine.study.known import find
    from engine.study.results import cell_results, mode_comparisons
    from engine.study.start import study as current_state

    current = current_state(home(), find(home(), name), only or [])
    rows, compared = cell_results(current), mode_comparisons(current)
    if as_json:
        document = {"study": current.name, "counts": current.counts, "cells": rows, "modes_compared": compared}
        console.print_json(document)
        return
    text.states(current.name, current.counts)
    text.cells(rows)
    text.modes(compared)
