"""The commands about runs that exist: `runs` and its subcommands, `show`, `compare` and `index`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.paths import home

if TYPE_CHECKING:
    from engine.runs.folder import RunFolder

runs_app = typer.Typer(invoke_without_command=True)


@runs_app.callback()
def runs(
    context: typer.Context,
    where: Annotated[
        str | None, typer.Option("--where", help="Only runs for which this holds, over any setting or rate.")
    ] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="List removed runs that can still be restored instead.")
    ] = False,
    archived: Annotated[
        bool, typer.Option("--archived", help="List archived runs too. Those at work always are.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List runs, newest first. Subcommands cancel, archive, remove or restore a run.

    \b
    Example:
      draftbench runs
      draftbench runs --deleted
      draftbench runs --where 'exact > .3 and train.learning_rate >= 1e-3'
    """
    if context.invoked_subcommand is not None:
        return
    from engine.cli.text import listing
    from engine.runs import trash
    from engine.runs.listing import list_runs

    trash.sweep(home())
    if deleted:
        _list_removed(as_json)
        return

    rows = list_runs(home())
    if where is not None:
        from engine.index.expressions import runs_where

        kept = set(runs_where(home(), where))
        rows = [row for row in rows if row["run"] in kept]
    shown = [row for row in rows if archived or not row["archived"] or row["state"] in ("queued", "running")]
    hidden = len(rows) - len(shown)
    if as_json:
        console.print_json(shown)
        return
    if shown:
        listing.runs(shown)
    if hidden:
        console.line(f"{hidden} archived run{'s' if hidden > 1 else ''} not listed: `draftbench runs --archived`")
    elif not shown and where is not None:
        console.line("no run fulfils the condition")
    elif not shown:
        console.line(f"there are no runs in {home().runs}; start one with `draftbench run recipes/quickstart.yaml`")
        console.line("`draftbench runs samples` adds the finished runs that come with Draftbench")


@runs_app.command("samples")
def samples(as_json: Json = False) -> None:
    """Add the finished sample runs to your home.

    The workbench does the same on its first start. Samples that were removed come back.

    \b
    Example:
      draftbench runs samples
    """
    from engine.runs.samples import lay_out_samples, sample_folders

    added = lay_out_samples(home(), asked=True)
    if as_json:
        console.print_json({"home": str(home().root), "added": added})
    else:
        console.line(f"added {len(added)} of {len(sample_folders())} sample runs to {home().runs}")
        if not added:
            console.line("all of them are there")


@runs_app.command("cancel")
def cancel(context: typer.Context, run_id: RunId, as_json: Json = False) -> None:
    """Stop a running run, or unqueue it; a stopped run can be resumed.

    \b
    Example:
      draftbench runs cancel latest
    """
    from engine.jobs.executors import place_of
    from engine.runs.folder import RunFolder

    folder = RunFolder.open(home(), run_id)
    process = folder.status().pid if folder.status().state == "running" else None
    message = place_of(folder).cancel(home(), folder)
    _print_change(context, as_json, folder, message, asked=process)


@runs_app.command("archive")
def archive(
    context: typer.Context,
    run_id: RunId,
    undo: Annotated[bool, typer.Option("--undo", help="Bring an archived run back.")] = False,
    as_json: Json = False,
) -> None:
    """Hide a run from lists and findings. Nothing is deleted.

    \b
    Example:
      draftbench runs archive latest
    """
    from engine.runs.folder import RunFolder
    from engine.runs.labels import change_labels

    folder = RunFolder.open(home(), run_id)
    change_labels(home(), folder, archived=not undo)
    where = "back in the lists" if undo else "archived"
    _print_change(context, as_json, folder, f"run {folder.id} is {where}", archived=not undo)


@runs_app.command("remove")
def remove(
    context: typer.Context,
    run_id: RunId,
    for_good: Annotated[
        bool, typer.Option("--for-good", help="Delete at once, without the day in which it can be restored.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a run, after saying what that frees. It can be restored for a day. Captures are kept.

    \b
    Example:
      draftbench runs remove latest
    """
    from engine.runs.folder import RunFolder
    from engine.runs.removing import removal_of, remove_run

    folder = RunFolder.open(home(), run_id)
    removal = removal_of(home(), folder)
    when = "at once; it cannot be restored" if for_good else "in 24 hours; until then it can be restored"
    if not yes:
        for remark in removal.remarks:
            typer.echo(console.harmless(remark), err=True)
        frees = f"It frees {removal.frees_bytes / 1e6:,.1f} MB {when}."
        typer.confirm(f"Remove {folder.path}? {frees}", abort=True, err=True)
    remove_run(home(), folder, for_good=for_good)
    undo = "" if for_good else f"; `draftbench runs restore {folder.id}` brings it back for 24 hours"
    _print_change(
        context,
        as_json,
        folder,
        f"run {folder.id} is removed{undo}",
        removed=True,
        restorable=not for_good,
        frees_bytes=removal.frees_bytes,
        remarks=list(removal.remarks),
    )


@runs_app.command("restore")
def restore(
    context: typer.Context,
    run_id: Annotated[
        str, typer.Argument(help="Id of a run that `draftbench runs --deleted` lists, or its beginning.")
    ],
    as_json: Json = False,
) -> None:
    """Bring a removed run back, as it was.

    \b
    Example:
      draftbench runs restore quickstart-20260101-120000
    """
    from engine.runs import trash
    from engine.runs.folder import RunFolder

    folder = RunFolder(trash.restore(home(), run_id))
    _print_change(context, as_json, folder, f"run {folder.id} is restored", restored=True)


def _list_removed(as_json: bool) -> None:
    from engine.runs import trash

    removed = trash.removed_runs(home())
    rows = [(one.run_id, f"{one.removed_at:%Y-%m-%d %H:%M}", f"{one.until:%Y-%m-%d %H:%M}") for one in removed]
    if as_json:
        console.print_json([dict(zip(("run", "removed", "until"), row, strict=True)) for row in rows])
    elif rows:
        console.table("", ["run", "removed (UTC)", "can be restored until"], rows)
    else:
        console.line("no run was removed in the last 24 hours")


def _print_change(context: typer.Context, as_json: bool, run: RunFolder, text: str, **outcome: object) -> None:
    """Print what became of a run; `--json` may stand before or after the subcommand."""
    if as_json or (context.parent and context.parent.params["as_json"]):
        console.print_json({"run": run.id, **outcome})
    else:
        console.line(text)


def show(run_id: RunId, as_json: Json = False) -> None:
    """Show a run's state, recipe, measurement and origin.

    \b
    Example:
      draftbench show latest
    """
    from engine.cli.text import runs as text
    from engine.runs.description import describe
    from engine.runs.folder import RunFolder

    description = describe(RunFolder.open(home(), run_id))
    console.print_json(description.document()) if as_json else text.run(description)


def compare(
    a: RunId, b: Annotated[str, typer.Argument(help="Run to compare with the first one.")], as_json: Json = False
) -> None:
    """Compare two runs, B minus A, paired on the same target text.

    \b
    Example:
      draftbench compare latest~1 latest
    """
    from engine.cli.text import runs as text
    from engine.runs.compare_runs import compare_runs
    from engine.runs.folder import RunFolder

    comparison = compare_runs(RunFolder.open(home(), a), RunFolder.open(home(), b))
    console.print_json(comparison) if as_json else text.comparison(comparison)


def index(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild the index from scratch.")] = False,
    as_json: Json = False,
) -> None:
    """Update the DuckDB index from the run folders.

    \b
    Example:
      draftbench index --rebuild
    """
    from engine.cli.text import runs as text
    from engine.index import ingest

    where = home()
    report = ingest.rebuild(where) if rebuild else ingest.ingest_all(where)
    changes = {
        "index": str(where.index),
        "written": report.written,
        "unchanged": len(report.unchanged),
        "failed": report.failed,
        "removed": report.removed,
        "damaged": ingest.damaged_runs(where),
        "repaired": report.repaired,
    }
    console.print_json(changes) if as_json else text.indexed(changes)
    if report.failed:
        raise typer.Exit(1)
