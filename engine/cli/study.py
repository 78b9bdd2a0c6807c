"""The `draftbench study` commands: a grid of runs is planned, started, waited for and shown here."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from engine.cli.keys import confirmed
from engine.cli.options import Json, Settings
from engine.cli.text import console
from engine.paths import home

StudyName = Annotated[str, typer.Argument(help="A study by its name, or its recipe.")]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Cells with this label: --only domain=biology. Repeatable.")
]


class RunIsUnderstood(TyperGroup):
    """`study RECIPE` means `study run RECIPE`: whatever is no command of the group is for `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with `run` before them where no command is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


study_app = typer.Typer(cls=RunIsUnderstood, no_args_is_help=True)


@study_app.callback()
def study() -> None:
    """Run a grid of recipes that share captures: `study RECIPE`.

    \b
    Example:
      draftbench study recipes/studies/smoke.yaml
    """


@study_app.command("run")
def study_run(
    recipe: Annotated[str, typer.Argument(help="A study's recipe, or the name of a study begun here.")],
    settings: Settings = None,
    only: Only = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done; start nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Return as soon as the cells are in the queue.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed/--leave-failed", help="Try again what failed before.")
    ] = True,
    estimate: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Tell time and disk too, for which all prompts are read.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Plan a study, queue its missing cells and wait for them.

    \b
    Example:
      draftbench study recipes/studies/smoke.yaml --plan
      draftbench study recipes/studies/first.yaml --only domain=biology --queue
    """
    from engine.cli.text import study as reports_study
    from engine.study.known import find
    from engine.study.start import start
    from engine.study.start import study as stands

    where = home()
    wanted = stands(where, find(where, recipe, settings or []), only or [])
    if not as_json:
        reports_study.states(wanted.name, wanted.counts)
        reports_study.passed_over(wanted.passed_over)
    costs = _costs(wanted, as_json) if estimate else {}
    if plan:
        if as_json:
            console.print_json({**_told(wanted), "costs": costs})
        return
    missing = len(wanted.missing(retry_failed=retry_failed))
    if missing and not yes and not as_json and sys.stdin.isatty():
        typer.confirm(f"Start {missing} runs?", abort=True, default=True)
    for one in wanted.missing(retry_failed=retry_failed):
        confirmed(one.cell.recipe)
    done = start(where, wanted, retry_failed=retry_failed)
    if not as_json:
        console.line(f"{len(done.submitted)} runs queued, {len(done.resumed)} go on")
    now = stands(where, wanted.spec, only or []) if queue else _waited(wanted)
    if as_json:
        console.print_json(
            {**_told(now), "submitted": [r.id for r in done.submitted], "resumed": [r.id for r in done.resumed]}
        )
    elif not queue:
        reports_study.states(now.name, now.counts)
    if not as_json:
        console.line(f"`draftbench study show {now.name}` shows what it found so far")
    if not queue and now.counts.get("done", 0) < len(now.placed):
        raise typer.Exit(1)


def _costs(wanted: Any, as_json: bool) -> dict[str, Any]:
    """What is still to be spent; nothing is looked up where all is done."""
    from engine.cli.text import study as reports_study

    if wanted.counts.get("done", 0) == len(wanted.placed):
        return {}
    from engine.progress import Progress
    from engine.study.costs import costs

    found = costs(home(), wanted.placed, Progress(quiet=as_json)).as_dict()
    if not as_json:
        reports_study.costs(found)
    return found


def _waited(wanted: Any) -> Any:
    """The study when nothing of it waits or runs any more; a line for each cell that changes."""
    from engine.study.start import wait

    now, before = wanted, wanted
    try:
        for now in wait(home(), wanted):
            told = {one.cell.key: one.state for one in before.placed}
            for one in now.placed:
                if told[one.cell.key] != one.state and one.state != "waiting":
                    console.err.print(
                        f"{now.counts.get('done', 0)}/{len(now.placed)} done; {one.state}: {one.cell.name}",
                        markup=False,
                    )
            before = now
    except KeyboardInterrupt:
        console.err.print(
            f"The queue goes on with study {wanted.name}. `draftbench study {wanted.name}` waits again, "
            "`draftbench runs cancel RUN` stops a run.",
            markup=False,
        )
        raise typer.Exit(130) from None
    return now


def _told(found: Any) -> dict[str, Any]:
    return {
        "study": found.name,
        "counts": found.counts,
        "cells": [
            {
                "cell": one.cell.name,
                "state": one.state,
                "run": one.run.id if one.run else None,
                "labels": dict(one.cell.labels),
            }
            for one in found.placed
        ],
    }


@study_app.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies of this home, the newest first.

    \b
    Example:
      draftbench study list
    """
    from engine.cli.text import study as reports_study
    from engine.study.overview import overview

    rows = overview(home())
    if as_json:
        console.print_json(rows)
    elif rows:
        reports_study.known(rows)
    else:
        console.line("no studies here; start one with `draftbench study recipes/studies/smoke.yaml`")


@study_app.command("show")
def study_show(name: StudyName, only: Only = None, as_json: Json = False) -> None:
    """A study's cells with what they measured, and its modes compared.

    \b
    Example:
      draftbench study show recipes/studies/first.yaml --only domain=biology
    """
    from engine.cli.text import study as reports_study
    from engine.study.known import find
    from engine.study.results import cell_results, mode_comparisons
    from engine.study.start import study as stands

    found = stands(home(), find(home(), name), only or [])
    rows, compared = cell_results(found), mode_comparisons(found)
    if as_json:
        console.print_json({"study": found.name, "counts": found.counts, "cells": rows, "modes_compared": compared})
        return
    reports_study.states(found.name, found.counts)
    reports_study.cells(rows)
    reports_study.modes(compared)
