"""The `draftbench` command: the list of its commands, and how an error becomes an exit status.

Each command reads its input, calls the engine and prints the result; no logic lives here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from engine import __version__
from engine.cli.data import data_app
from engine.cli.decode import decode, live
from engine.cli.export import export
from engine.cli.findings import findings
from engine.cli.keys import allow_key
from engine.cli.machine import doctor, fetch, paths
from engine.cli.measure_only import measure_only
from engine.cli.reference import losses, schema
from engine.cli.run import capture, measure, run, train, work
from engine.cli.runs import compare, index, runs_app, show
from engine.cli.served import served_app
from engine.cli.slices import slices
from engine.cli.study import study_app
from engine.cli.text import console
from engine.cli.tune import tune
from engine.errors import Cancelled, DraftbenchError
from engine.paths import home
from engine.ranks import Launch

_STOPPED = 130  # the exit status of a program ended by Ctrl-C

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
for command in (
    *(run, capture, train, measure, show, compare, slices, export, decode, live, findings, tune),
    *(fetch, doctor, paths, losses, schema, index),
):
    app.command()(command)
app.command("measure-only")(measure_only)
app.command("allow-key")(allow_key)
app.command(hidden=True)(work)
app.add_typer(runs_app, name="runs")
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(served_app, name="served")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"draftbench {__version__}")
        raise typer.Exit


def _refuse_copies(command: str | None, options: Collection[str]) -> None:
    """Raise DraftbenchError where a launcher has started several processes of a command that is for one."""
    launch = Launch.of(os.environ)
    if launch is None:
        return
    elsewhere = next((option for option in ("--queue", "--on", "--plan") if option in options), None)
    if command not in ("run", "train") or elsewhere is not None:
        typed = " ".join(["draftbench", *(word for word in (command, elsewhere) if word)])
        raise DraftbenchError(
            f"`{typed}` was started as {launch.count} processes",
            "each would do the same work; only `train` and `run`, where they work here, share theirs",
            "start it without torchrun",
        )
    if launch.restarts and "--resume" not in options:
        raise DraftbenchError(
            f"the launcher has started the processes again, for the {launch.restarts}. time",
            "a recipe begins a new run; the run that was begun would be left behind",
            "`torchrun ... -m engine train --resume latest` continues it",
        )


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, measure and show domain draft models for speculative decoding.

    \b
    Example:
      draftbench run recipes/quickstart.yaml
    """
    _refuse_copies(context.invoked_subcommand, {word.partition("=")[0] for word in sys.argv})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with 0, 1 for a failed check, 2 for an explained error, 130 for a stop."""
    _quiet_libraries()
    console.guard_streams()
    line = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in line
    try:
        # An application that is not standalone returns the status of an Exit, and 130 for Ctrl-C, instead of raising.
        code = app(line, prog_name="draftbench", standalone_mode=False)
        if code == _STOPPED:
            code = _report_stop("", as_json)
    except DraftbenchError as error:
        code = _report(error, as_json)
    except (Cancelled, KeyboardInterrupt) as stop:
        code = _report_stop(str(stop), as_json)
    except typer.Abort as unconfirmed:
        code = _report_unconfirmed(unconfirmed, as_json)
    except Exception as error:
        code = _report_or_raise(error, as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _quiet_libraries() -> None:
    """Turn off the libraries' own progress bars and advice, which would drown ours; their warnings still appear."""
    for name in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _report(error: DraftbenchError, as_json: bool, code: int = 2) -> int:
    if as_json:
        console.print_json({"error": error.as_dict()})
    console.print_error(error)
    return code


def _report_stop(name: str, as_json: bool) -> int:
    """Report Ctrl-C or SIGTERM; `name` is the run, or other work, that was stopped."""
    from engine.runs.folder import RunFolder

    again = f"`draftbench run --resume {name}`" if RunFolder.exists(home(), name) else "the same command"
    fix = f"{again} continues from there" if name else ""
    return _report(DraftbenchError("stopped", "finished work is kept", fix), as_json, _STOPPED)


def _report_unconfirmed(unconfirmed: typer.Abort, as_json: bool) -> int:
    """Report a question that was answered with no, by Ctrl-C, or by nobody."""
    cut_off = unconfirmed.__context__
    if cut_off is not None:
        typer.echo(err=True)  # the question left its line open
    if isinstance(cut_off, KeyboardInterrupt):
        return _report_stop("", as_json)
    error = DraftbenchError(
        "not confirmed: nothing was changed",
        "the question was answered with no, or there was nobody to answer it",
        "answer with y, or add --yes to continue without a question",
    )
    return _report(error, as_json)


def _report_or_raise(error: Exception, as_json: bool) -> int:
    """Explain wrong usage and faults of the machine; anything else is a bug of ours and keeps its traceback."""
    from engine.runs.faults import explain

    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(console.harmless(error.format_message()))  # type: ignore[attr-defined]
        return 0
    if hasattr(error, "format_message"):  # click's errors of usage
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "draftbench"
        return _report(DraftbenchError(error.format_message(), "", f"`{path} --help` lists its options"), as_json)
    explanation = explain(error)
    if explanation is None:
        raise error
    return _report(explanation, as_json)
