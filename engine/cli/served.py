"""The `draftbench served` commands: what servers will do with a draft, and what they reported of it."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.catalogue import SERVERS
from engine.cli import served_figures
from engine.cli.options import Json, RunId
from engine.cli.parity import parity, setup
from engine.cli.text import console
from engine.paths import home

served_app = typer.Typer(no_args_is_help=True)


@served_app.callback()
def served() -> None:
    """Predict what a server does with a run's draft, and compare it with what the server reports.

    \b
    Example:
      draftbench served predict latest --for vllm
    """


@served_app.command("predict")
def predict(
    run_id: RunId,
    server: Annotated[
        list[str] | None, typer.Option("--for", help=f"Only this server: {', '.join(SERVERS)}. Repeatable.")
    ] = None,
    gamma: Annotated[
        int | None, typer.Option("--gamma", min=1, max=64, help="Draft tokens per round; by default the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a server will report of a run's draft, and whether it is worth it.

    For each rule of each server: its rate, tokens per round, the predicted speed-up and what would change the answer.
    With --for, the schedule of gamma by batch size and the flags that make a server accept as often without the draft.

    \b
    Example:
      draftbench served predict latest --for vllm
    """
    from engine.cli.text import expected as text
    from engine.deploy.expected import expectations
    from engine.runs.folder import RunFolder

    expected = expectations(RunFolder.open(home(), run_id), servers=server or (), gamma=gamma)
    console.print_json(expected.document()) if as_json else text.expected(expected, in_full=bool(server))


served_app.command("import")(served_figures.import_figures)
served_app.command("probe")(served_figures.probe)
served_app.command("show")(served_figures.show)
served_app.command("remove")(served_figures.remove)
served_app.command()(parity)
served_app.command()(setup)
