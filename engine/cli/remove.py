"""`draftbench runs archive` and `runs remove`: putting runs aside, also damaged ones."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.paths import home


def archive(
    run_id: RunId,
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back into the lists.")] = False,
    as_json: Json = False,
) -> None:
    """Leave a run out of lists and findings; nothing is deleted.

    \b
    Example:
      draftbench runs archive latest
    """
    from engine.runs.folder import RunFolder
    from engine.runs.labels import change_labels

    run = RunFolder.open(home(), run_id)
    change_labels(home(), run, archived=not undo)
    if as_json:
        console.print_json({"run": run.id, "archived": not undo})
    else:
        console.line(f"run {run.id} is {'back in the lists' if undo else 'archived'}")


def remove(
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a run's folder for good, after asking; captures stay.

    \b
    Example:
      draftbench runs remove latest
    """
    from engine.runs.folder import RunFolder
    from engine.runs.removing import remove_run

    run = RunFolder.open(home(), run_id)
    if not yes:
        typer.confirm(f"Delete {run.path} and all that is in it?", abort=True, err=True)
    remove_run(home(), run)
    console.print_json({"run": run.id, "removed": True}) if as_json else console.line(f"run {run.id} is removed")
