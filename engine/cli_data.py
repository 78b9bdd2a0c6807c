"""The `draftbench data` commands: prompts are looked at, fetched, imported and written here."""

from __future__ import annotations

from typing import Annotated

import typer

from engine import console, reports
from engine.cli_options import Json, SkipBad
from engine.config import DEFAULT_TARGET

data_app = typer.Typer(no_args_is_help=True)


@data_app.callback()
def data() -> None:
    """Look at prompt files.

    \b
    Example:
      draftbench data check sample_data/prompts/biology/train.jsonl
    """


@data_app.command("check")
def data_check(
    files: Annotated[list[str], typer.Argument(help="Prompt files, folders or hub:NAME.")],
    target: Annotated[str, typer.Option(help="Model whose template and tokenizer count the tokens.")] = DEFAULT_TARGET,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Read prompts, report bad rows, count tokens.

    \b
    Example:
      draftbench data check sample_data/prompts/biology/train.jsonl
    """
    from engine.runs.checking import check_prompts

    report = check_prompts(files, target, skip_bad=skip_bad)
    console.print_json(report) if as_json else reports.prompts(report)
