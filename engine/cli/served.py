"""The `draftbench served` commands: what servers will do with a draft, and what they reported of it."""

from __future__ import annotations

import typer

from engine.cli.parity import parity, setup

served_app = typer.Typer(no_args_is_help=True)


@served_app.callback()
def served() -> None:
    """What a server will do with a run's draft, and what it did.

    \b
    Example:
      draftbench served predict latest --for vllm
    """


served_app.command()(parity)
served_app.command()(setup)
