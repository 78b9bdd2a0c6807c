"""The command `tune`: fine-tune a base model into a domain target."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, Settings
from engine.cli.text import console
from engine.paths import home


def tune(
    recipe: Annotated[str, typer.Argument(help="Recipe file, for example recipes/targets/function_calling.yaml.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write.  [default: targets/NAME in your home]")
    ] = None,
    measure_only: Annotated[
        bool, typer.Option("--measure-only", help="Measure an existing adapter; write nothing.")
    ] = False,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            help="With --measure-only: folder of the adapter.  [default: the shipped one]",
        ),
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a base model into a domain target (LoRA).

    Also measures perplexity, and for function calling the share of valid calls, before and after.

    \b
    Example:
      draftbench tune recipes/targets/function_calling.yaml
      draftbench tune recipes/targets/function_calling.yaml --measure-only
    """
    from engine.cli.text.tune import target
    from engine.progress import Progress
    from engine.runs.provenance import provenance
    from engine.stopping import stop_on_signals
    from engine.tune.pipeline import folder_of, measure_again
    from engine.tune.pipeline import tune as fine_tune

    command = ["draftbench", *sys.argv[1:]]  # without the path of the program: a target's folder may be shared
    with stop_on_signals() as stop_wanted:
        progress = Progress(stop_wanted=stop_wanted)
        if measure_only:
            report = measure_again(recipe, settings or [], adapter, progress=progress)
        else:
            folder = out.expanduser().absolute() if out else folder_of(home(), recipe, settings or [])
            report = {"folder": str(folder)} | fine_tune(
                recipe,
                settings or [],
                folder,
                provenance=provenance(command=command).model_dump(exclude_unset=True),
                progress=progress,
            )
    console.print_json(report) if as_json else target(report)
