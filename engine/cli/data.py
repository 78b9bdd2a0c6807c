"""The `draftbench data` commands: prompts are looked at, fetched, imported and written here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, Settings, SkipBad
from engine.cli.text import console, runs
from engine.config.schema import DEFAULT_TARGET
from engine.paths import home

data_app = typer.Typer(no_args_is_help=True)


@data_app.callback()
def data() -> None:
    """Look at prompt files, fetch packs of prompts.

    \b
    Example:
      draftbench data fetch
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
    from engine.planning.prompt_check import check_prompts

    report = check_prompts(files, target, skip_bad=skip_bad)
    console.print_json(report) if as_json else runs.prompts(report)


@data_app.command("magpie")
def data_magpie(
    recipe: Annotated[str, typer.Argument(help="A recipe, for example recipes/magpie/general.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write (.jsonl); a .json comes beside it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that another recipe made.")] = False,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Let the target write prompts itself (Magpie) and keep the fit ones.

    \b
    Example:
      draftbench data magpie recipes/magpie/general.yaml --set queries=500
    """
    from engine.cli.text import magpie
    from engine.magpie.generation import synthesise

    told = synthesise(home(), recipe, settings or [], out=out, overwrite=overwrite)
    console.print_json(told) if as_json else magpie.magpie(told)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Packs to fetch; the small ones if none is named.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch every pack, the large ones too.")] = False,
    folder: Annotated[
        str | None, typer.Option("--from", help="Of hub:NAME: a folder of its files, not the hub.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of hub:NAME: branch, tag or commit.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch packs of prompts with pip, checked by hash.

    \b
    Example:
      draftbench data fetch bfcl pyserini
    """
    from engine.cli.text import data as reports_data
    from engine.data.packs.catalogue import PACKS, default_packs
    from engine.data.packs.fetch import fetch_packs
    from engine.progress import Progress

    wanted = list(PACKS) if everything else names or default_packs()
    report = fetch_packs(wanted, folder=folder, revision=revision, progress=Progress())
    console.print_json(report) if as_json else reports_data.fetched(report)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the packs of prompts: size, licence, which are here.

    \b
    Example:
      draftbench data list
    """
    from engine.cli.text import data as reports_data
    from engine.data.packs.fetch import list_packs

    packs = list_packs()
    console.print_json(packs) if as_json else reports_data.listed(packs)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A fetched pack, or a set such as pack:biology/curated.")],
    records: Annotated[int, typer.Option(min=1, help="With a set: how many of its records to print.")] = 3,
    as_json: Json = False,
) -> None:
    """Show a pack's counts, filters and licence, or records of a set.

    \b
    Example:
      draftbench data show pack:function_calling/historical --records 5
    """
    from engine.cli.text import data as reports_data
    from engine.data.packs.fetch import describe, first_records
    from engine.data.packs.sets import PREFIX

    if name.startswith(PREFIX):
        entries = first_records(name, records)
        console.print_json(entries) if as_json else reports_data.records(entries)
    else:
        described = describe(name)
        console.print_json(described) if as_json else reports_data.pack(described)


@data_app.command("import")
def data_import(
    files: Annotated[
        list[str], typer.Argument(help="Logs: .jsonl, .json, .csv or .parquet files, or Datasets folders.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for train.jsonl, heldout.jsonl and import.json.")],
    messages_column: Annotated[str, typer.Option(help="Chat messages; dots go into objects.")] = "messages",
    prompt_column: Annotated[str, typer.Option(help="Plain text, where there are no messages.")] = "prompt",
    tools_column: Annotated[str, typer.Option(help="Schemas of the tools.")] = "tools",
    id_column: Annotated[str, typer.Option(help="The row's own name.")] = "id",
    conversation_column: Annotated[str | None, typer.Option(help="What rows of one conversation share.")] = None,
    time_column: Annotated[str | None, typer.Option(help="When it was: prompts are kept in this order.")] = None,
    reference_column: Annotated[str | None, typer.Option(help="The answer, if it is not the last message.")] = None,
    split: Annotated[str, typer.Option(help="Split of a Datasets folder.")] = "train",
    every_turn: Annotated[bool, typer.Option("--every-turn", help="A prompt for each turn of the user.")] = False,
    keep_pii: Annotated[bool, typer.Option("--keep-pii", help="Leave personal data and keys as they are.")] = False,
    domain: Annotated[str, typer.Option(help="Label of the domain.")] = "general",
    heldout_share: Annotated[float, typer.Option(help="Share of conversations to hold out.")] = 0.12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import.")] = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Make prompts of your own chat logs, scrubbed and split.

    \b
    Example:
      draftbench data import sample_data/prompts/biology/train.jsonl --out prompts/mine
    """
    from engine.cli.text import data as reports_data
    from engine.config.reading import parse_section
    from engine.logs.importing import ImportOptions, import_logs
    from engine.logs.queries import LogSource

    columns = {
        "messages_column": messages_column,
        "prompt_column": prompt_column,
        "tools_column": tools_column,
        "id_column": id_column,
        "conversation_column": conversation_column,
        "time_column": time_column,
        "reference_column": reference_column,
    }
    options = ImportOptions(
        domain=domain, every_turn=every_turn, keep_pii=keep_pii, skip_bad=skip_bad, heldout_share=heldout_share
    )
    sources = [parse_section(LogSource, {"path": file, "split": split, **columns}) for file in files]
    told = import_logs(sources, out, options, overwrite=overwrite)
    console.print_json(told) if as_json else reports_data.imported(told, str(out))


@data_app.command("overlap")
def data_overlap(
    files: Annotated[list[str] | None, typer.Argument(help="Training files of your own to compare as well.")] = None,
    as_json: Json = False,
) -> None:
    """Look for held-out queries in training sets; exit 1 if one is.

    \b
    Example:
      draftbench data overlap sample_data/prompts/general/train.jsonl
    """
    from engine.cli.text import data as reports_data
    from engine.data.packs.leaks import find_leaks
    from engine.progress import Progress

    report = find_leaks(files or [], progress=Progress())
    console.print_json(report) if as_json else reports_data.overlap(report)
    if not report["ok"]:
        raise typer.Exit(1)
