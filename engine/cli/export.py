"""The command `export`: a run's draft as a folder that other libraries load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.catalogue import DEFAULT_FORMAT, EXPORTERS
from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.errors import DraftbenchError
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
    lora: Annotated[
        Literal["merged", "apart"],
        typer.Option("--lora", help="Of a draft that is an adapter: merged into the shared draft, or apart from it."),
    ] = "merged",
    shared: Annotated[
        Path | None,
        typer.Option("--shared", help="With --lora apart, folder of the shared draft; beside --out if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's best draft as a Hugging Face folder.

    Then check that it measures the same as the run's draft; the exit status is 1 if it does not. With --lora apart the
    folder holds a PEFT adapter, and the shared draft is a folder of its own, written once for all fine-tunes.

    \b
    Example:
      draftbench export latest --out my-draft
      draftbench export latest --lora apart --out my-adapter
    """
    from engine.cli.text import runs
    from engine.export.of_run import export_run
    from engine.runs.folder import RunFolder

    folder = RunFolder.open(home(), run_id)
    place = out.expanduser().absolute()
    if lora == "apart":
        from engine.export.apart import export_apart

        if format_name != DEFAULT_FORMAT:
            raise DraftbenchError(
                f"--lora apart does not go with --format {format_name}",
                "an adapter apart is a folder of PEFT",
                "leave one of them out",
            )
        base = None if shared is None else shared.expanduser().absolute()
        report = export_apart(home(), folder, place, shared=base, overwrite=overwrite, check=check)
    elif shared is not None:
        raise DraftbenchError("--shared goes with --lora apart", "a merged draft is one folder", "leave it out")
    else:
        report = export_run(home(), folder, place, overwrite=overwrite, check=check, format_name=format_name)
    console.print_json(report) if as_json else runs.exported(report)
    if not report["ok"]:
        raise typer.Exit(1)
