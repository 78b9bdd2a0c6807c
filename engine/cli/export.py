"""The command `export`: a run's draft in the form that a server loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.catalogue import DEFAULT_FORMAT, EXPORTERS
from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import home

Served = Literal["transformers", "vllm", "sglang", "llama.cpp", "tensorrt-llm"]


def export(
    run_id: RunId,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.")] = None,
    server: Annotated[
        Served | None, typer.Option("--for", help="Server that loads it: chooses the format, adds a start command.")
    ] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="With --for: only say what the server would refuse; write nothing.")
    ] = False,
    target: Annotated[
        Literal["none", "merged", "apart"] | None,
        typer.Option("--target", help="With --for: write the target too, whole (merged) or its adapter alone (apart)."),
    ] = None,
    gguf: Annotated[
        str | None, typer.Option("--gguf", help=f"Precision of GGUF: {', '.join(EXPORTERS['gguf'].precisions)}.")
    ] = None,
    gamma: Annotated[
        int | None, typer.Option("--gamma", help="With --for: tokens per proposal.  [default: as measured]")
    ] = None,
    proposals: Annotated[
        Literal["argmax", "sampled"] | None,
        typer.Option("--proposals", help="With --for: how tokens are proposed.  [default: the server's]"),
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", min=1, help="With --for: longest text in tokens.  [default: the models']")
    ] = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Option("--tensor-parallel", min=1, help="With --for: devices that share both models.  [default: 1]"),
    ] = None,
    served_target: Annotated[
        str | None,
        typer.Option("--served-target", help="With --for: the copy of the target that is served (as target.model)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load the folder with plain Transformers and measure it again.")
    ] = True,
    format_name: Annotated[
        str | None, typer.Option("--format", help=f"Without --for: format of the folder: {', '.join(EXPORTERS)}.")
    ] = None,
    lora: Annotated[
        Literal["merged", "apart"],
        typer.Option("--lora", help="Of a draft that is an adapter: merged into the shared draft, or apart from it."),
    ] = "merged",
    shared: Annotated[
        Path | None,
        typer.Option("--shared", help="With --lora apart, folder of the shared draft; beside --out if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's best draft for a server, or as a Hugging Face folder.

    Then check that it measures the same as the run's draft; the exit status is 1 if it does not, or if --preflight
    finds that the server would refuse the pair or that --out is taken. With --lora apart the folder holds a PEFT
    adapter, and the shared draft is a folder of its own, written once for all fine-tunes.

    \b
    Example:
      draftbench export latest --out my-draft
      draftbench export latest --for vllm --preflight
      draftbench export latest --for llama.cpp --gguf q8_0 --target merged --out my-draft
      draftbench export latest --lora apart --out my-adapter
    """
    from engine.export.steps import LIBRARIES, begin
    from engine.progress import Progress
    from engine.runs.folder import RunFolder

    _check_options(
        server is not None,
        preflight,
        out,
        format_name,
        (target, gamma, proposals, context, tensor_parallel, served_target),
    )
    _check_lora(lora, shared, server, format_name or (gguf and f"gguf with --gguf {gguf}"))
    folder = RunFolder.open(home(), run_id)
    if not preflight:
        begin(Progress(), LIBRARIES, check=check)
    from engine.cli.text import runs
    from engine.export.export_run import export_run
    from engine.export.folder import remove_half, taken
    from engine.export.for_server import Wishes, plan
    from engine.stopping import stop_on_signals

    wishes = None
    if server is not None:
        wishes = Wishes(server, gamma, proposals, context, tensor_parallel or 1, target, gguf, served_target)
    if wishes is not None and preflight:
        made = plan(folder, folder.recipe(), wishes)
        place = out.expanduser().absolute() if out else Path("FOLDER")
        report = made.report(place) | {"folder": taken(home(), place, overwrite) if out else None}
        console.print_json(report) if as_json else runs.preflight(report)
        if report["folder"] or any(finding["level"] == "refused" for finding in report["preflight"]):
            raise typer.Exit(1)
        return
    assert out is not None
    place = out.expanduser().absolute()
    with stop_on_signals(remove_half) as stop:
        progress = Progress(stop_wanted=stop)
        if lora == "apart":
            from engine.export.apart import export_apart

            base = None if shared is None else shared.expanduser().absolute()
            report = export_apart(
                home(), folder, place, shared=base, overwrite=overwrite, check=check, progress=progress
            )
        else:
            report = export_run(
                home(),
                folder,
                place,
                overwrite=overwrite,
                check=check,
                format_name=format_name or DEFAULT_FORMAT,
                precision=gguf if wishes is None else None,
                wishes=wishes,
                progress=progress,
            )
    console.print_json(report) if as_json else runs.exported(report)
    if not report["ok"]:
        raise typer.Exit(1)


def _check_options(
    for_server: bool, preflight: bool, out: Path | None, format_name: str | None, of_servers: tuple[object, ...]
) -> None:
    """Raise DraftbenchError for options that contradict each other, or that would not be used."""
    if for_server and format_name is not None:
        raise DraftbenchError(
            f"--for and --format {format_name}", "the server decides the format", "leave one of them out"
        )
    if not for_server and (preflight or any(option is not None for option in of_servers)):
        raise DraftbenchError(
            "an option for a server without --for",
            "--preflight, --target, --gamma, --proposals, --context, --tensor-parallel and --served-target depend on "
            "the server",
            "add --for vllm, or another server",
        )
    if out is None and not preflight:
        raise DraftbenchError("no --out", "the draft must be written somewhere", "add --out FOLDER")


def _check_lora(lora: str, shared: Path | None, server: str | None, form: str | None) -> None:
    """Raise DraftbenchError if an adapter apart is asked for in a form that has none."""
    if lora != "apart":
        if shared is not None:
            raise DraftbenchError("--shared goes with --lora apart", "a merged draft is one folder", "leave it out")
        return
    if server not in (None, "transformers"):
        raise DraftbenchError(
            f"--lora apart does not go with --for {server}",
            "the server applies adapters to the target alone, never to its draft",
            "leave --lora out: the draft is then exported merged",
        )
    if server is not None or form not in (None, DEFAULT_FORMAT):
        raise DraftbenchError(
            f"--lora apart does not go with {f'--for {server}' if server else f'--format {form}'}",
            "an adapter apart is a folder of PEFT, which Transformers loads",
            "leave one of them out",
        )
