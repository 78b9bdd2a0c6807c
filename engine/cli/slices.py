"""The command `slices`: where a draft fails, and a training set of the prompts that hold most of its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import home


def slices(
    run_id: RunId,
    by: Annotated[
        str | None,
        typer.Option("--by", help="kind (default), group, category, position, context, entropy or prompt."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Rate to slice, as `draftbench show` names them (default: exact).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Measured temperature; the lowest if left out.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Second run: show its change per slice, paired on the same text.")
    ] = None,
    worst: Annotated[
        float | None,
        typer.Option("--worst", help="Write the training prompts that hold this share of the refusals; needs --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The .jsonl file for --worst.")] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="With --worst and --by: count the refusals of this slice alone.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="With --worst: choose among the prompts of this file, not the run's own."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file of --worst.")] = False,
    as_json: Json = False,
) -> None:
    """Show where a run's draft fails: a rate by kind of token, prompt group, position, or the target's entropy.

    Slices that hold most of the refusals come first. With --worst, choose training prompts for the next run.

    \b
    Example:
      draftbench slices latest --by kind --temperature 1
    """
    _refuse_mixed(
        worst,
        out,
        {"--only": only, "--prompts": prompts, "--overwrite": overwrite or None},
        {"--rate": rate, "--temperature": temperature, "--against": against},
    )
    from engine.cli.text import slices as text
    from engine.runs.folder import RunFolder

    run = RunFolder.open(home(), run_id)
    if worst is not None and out is not None:
        from engine.slices.focus import Wanted, focus

        path = out.expanduser().absolute()
        made = focus(home(), run, Wanted(worst, by, only, prompts), path, overwrite=overwrite)
        console.print_json(made.document()) if as_json else text.focused(made)
        return
    from engine.slices.of_run import DEFAULT_BY, DEFAULT_RATE, slices_against, slices_of_run

    by, rate = by or DEFAULT_BY, rate or DEFAULT_RATE
    if against is None:
        result = slices_of_run(run, by=by, rate=rate, temperature=temperature)
    else:
        result = slices_against(run, RunFolder.open(home(), against), by=by, rate=rate, temperature=temperature)
    console.print_json(result.document()) if as_json else text.slices(result)


def _refuse_mixed(
    worst: float | None, out: Path | None, of_worst: dict[str, object], of_slices: dict[str, object]
) -> None:
    """Refuse options that would be left unused."""
    if (worst is None) != (out is None):
        raise DraftbenchError(
            "--worst and --out go together", "one says how many prompts, the other where", "give both, or neither"
        )
    unused = [name for name, value in (of_worst if worst is None else of_slices).items() if value is not None]
    if unused:
        why = "they choose training prompts" if worst is None else "training prompts are chosen by exact acceptance"
        fix = "add --worst SHARE --out FILE.jsonl, or leave them out" if worst is None else "leave them out"
        raise DraftbenchError(f"{', '.join(unused)} would not be used", why, fix)
