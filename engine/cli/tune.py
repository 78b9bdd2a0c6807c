"""The `draftbench tune` command: a domain target made from a base model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, Settings
from engine.cli.text import console
from engine.paths import home


def tune(
    recipe: Annotated[str, typer.Argument(help="A recipe, for example recipes/targets/function_calling.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the target; targets/NAME if none.")] = None,
    measure_only: Annotated[
        bool, typer.Option("--measure-only", help="Repeat the figures of an adapter that is there; write nothing.")
    ] = False,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="With --measure-only: its folder, else the shipped one.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model into a domain target (LoRA), and measure what that changed.

    \b
    Example:
      draftbench tune recipes/targets/function_calling.yaml
      draftbench tune recipes/targets/function_calling.yaml --measure-only
    """
    from engine.cli.text import tune as reports_tune
    from engine.progress import Progress
    from engine.runs.execution import stop_on_signals
    from engine.runs.provenance import provenance
    from engine.tune.pipeline import folder_of, measure_again
    from engine.tune.pipeline import tune as make

    command = ["draftbench", *sys.argv[1:]]  # not where the program lies: a target's folder may be given away
    with stop_on_signals() as stop_wanted:
        progress = Progress(stop_wanted=stop_wanted)
        if measure_only:
            told = measure_again(recipe, settings or [], adapter, progress=progress)
        else:
            folder = out.expanduser().absolute() if out else folder_of(home(), recipe, settings or [])
            told = {"folder": str(folder)} | make(
                recipe, settings or [], folder, provenance=provenance(command=command), progress=progress
            )
    console.print_json(told) if as_json else reports_tune.target(told)
