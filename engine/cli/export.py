"""The command `export`: a run's draft as a folder that other libraries load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.catalogue import DEFAULT_FORMAT, EXPORTERS
from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.paths import home


def export(
    run_id: RunId,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load the folder with plain Transformers and measure it again.")
    ] = True,
    format_name: Annotated[
        str, typer.Option("--format", help=f"Format of the folder: {', '.join(EXPORTERS)}.")
    ] = DEFAULT_FORMAT,
    as_json: Json = False,
) -> None:
    """Write a run's best draft as a Hugging Face folder.

    Then check that it measures the same as the run's draft; the exit status is 1 if it does not.

    \b
    Example:
      draftbench export latest --out my-draft
    """
    from engine.cli.text import runs
    from engine.export.of_run import export_run
    from engine.runs.folder import RunFolder

    folder = RunFolder.open(home(), run_id)
    report = export_run(
        home(), folder, out.expanduser().absolute(), overwrite=overwrite, check=check, format_name=format_name
    )
    console.print_json(report) if as_json else runs.exported(report)
    if not report["ok"]:
        raise typer.Exit(1)
