"""The `draftbench data` commands: check, fetch, import and write prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, SkipBad
from engine.cli.text import console
from engine.config.defaults import DEFAULT_TARGET
from engine.errors import DraftbenchError
from engine.paths import home

data_app = typer.Typer(no_args_is_help=True)

MessagesColumn = Annotated[str, typer.Option(help="Column of chat messages; dots reach into objects.")]
PromptColumn = Annotated[str, typer.Option(help="Column of plain text, for rows without messages.")]
ToolsColumn = Annotated[str, typer.Option(help="Column of tool schemas.")]


@data_app.callback()
def data() -> None:
    """Check, fetch, import and write prompts.

    \b
    Example:
      draftbench data fetch
    """


@data_app.command("check")
def data_check(
    files: Annotated[list[str], typer.Argument(help="Prompt files, Datasets folders or hub:NAME.")],
    target: Annotated[
        str, typer.Option(help="Model whose chat template and tokenizer are used to count tokens.")
    ] = DEFAULT_TARGET,
    messages_column: MessagesColumn = "messages",
    prompt_column: PromptColumn = "prompt",
    tools_column: ToolsColumn = "tools",
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Read prompt files, report bad rows and what the chat template leaves out, and count tokens.

    \b
    Example:
      draftbench data check sample_data/prompts/biology/train.jsonl
    """
    from engine.cli.text import data as text
    from engine.planning.prompt_check import check_prompts

    columns = {"messages_column": messages_column, "prompt_column": prompt_column, "tools_column": tools_column}
    report = check_prompts(files, target, skip_bad=skip_bad, columns=columns)
    console.print_json(report) if as_json else text.prompts(report)


@data_app.command("magpie")
def data_magpie(
    recipe: Annotated[str, typer.Argument(help="Recipe file, for example recipes/magpie/general.yaml.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write (.jsonl), with a .json about it beside it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file made from another recipe.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key, as in --set queries=500. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let the target write prompts (Magpie) and filter them.

    \b
    Example:
      draftbench data magpie recipes/magpie/general.yaml --set queries=500
    """
    from engine.cli.text import magpie
    from engine.magpie.generation import synthesise

    report = synthesise(home(), recipe, settings or [], out=out, overwrite=overwrite)
    console.print_json(report) if as_json else magpie.magpie(report)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Packs to fetch.  [default: the small ones]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch every pack, including the large ones.")] = False,
    folder: Annotated[
        str | None, typer.Option("--from", help="For hub:NAME: read its files from this folder, not the hub.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="For hub:NAME: branch, tag or commit.")] = None,
    as_json: Json = False,
) -> None:
    """Download packs of prompts and verify their hashes.

    \b
    Example:
      draftbench data fetch bfcl pyserini
    """
    from engine.cli.text import data as text
    from engine.data.packs.catalogue import PACKS, default_packs
    from engine.data.packs.fetch import fetch_packs
    from engine.progress import Progress

    if everything and names:
        raise DraftbenchError(
            f"--all and {' '.join(names)}", "--all fetches every pack, those among them", "leave one of them out"
        )
    packs = list(PACKS) if everything else names or default_packs()
    report = fetch_packs(packs, folder=folder, revision=revision, progress=Progress())
    console.print_json(report) if as_json else text.fetched(report)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the packs of prompts, and which are downloaded.

    \b
    Example:
      draftbench data list
    """
    from engine.cli.text import data as text
    from engine.data.packs.fetch import list_packs

    packs = list_packs()
    console.print_json(packs) if as_json else text.listed(packs)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A downloaded pack, or a set such as pack:biology/curated.")],
    records: Annotated[int, typer.Option(min=1, help="For a set: how many records to print.")] = 3,
    as_json: Json = False,
) -> None:
    """Show a pack, or the first records of a set.

    \b
    Example:
      draftbench data show pack:function_calling/historical --records 5
    """
    from engine.cli.text import data as text
    from engine.data.packs.fetch import describe, first_records
    from engine.data.packs.sets import PREFIX

    if name.startswith(PREFIX):
        entries = first_records(name, records)
        console.print_json(entries) if as_json else text.records(entries)
    else:
        description = describe(name)
        console.print_json(description) if as_json else text.pack(description)


@data_app.command("import")
def data_import(
    files: Annotated[
        list[str], typer.Argument(help="Logs: .jsonl, .json, .csv or .parquet files, or Datasets folders.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for train.jsonl, heldout.jsonl and import.json.")],
    messages_column: MessagesColumn = "messages",
    prompt_column: PromptColumn = "prompt",
    tools_column: ToolsColumn = "tools",
    id_column: Annotated[str, typer.Option(help="Column of row ids.")] = "id",
    conversation_column: Annotated[str | None, typer.Option(help="Column of conversation ids.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times; prompts are written in this order.")] = None,
    reference_column: Annotated[
        str | None, typer.Option(help="Column of answers, if the answer is not the last message.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a Datasets folder.")] = "train",
    every_turn: Annotated[bool, typer.Option("--every-turn", help="Make a prompt of each user turn.")] = False,
    keep_pii: Annotated[bool, typer.Option("--keep-pii", help="Keep personal data and keys as they are.")] = False,
    domain: Annotated[str, typer.Option(help="Domain label.")] = "general",
    heldout_share: Annotated[float, typer.Option(help="Share of the conversations to hold out.")] = 0.12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import.")] = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Make training and held-out prompts from your chat logs.

    Replaces personal data and keys, and splits by conversation and tool set.

    \b
    Example:
      draftbench data import sample_data/prompts/biology/train.jsonl --out prompts/mine
    """
    from engine.cli.text import data as text
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
    report = import_logs(sources, out, options, overwrite=overwrite)
    console.print_json(report) if as_json else text.imported(report, str(out))


@data_app.command("overlap")
def data_overlap(
    files: Annotated[list[str] | None, typer.Argument(help="Your own training files to compare as well.")] = None,
    as_json: Json = False,
) -> None:
    """Look for held-out queries in the training sets.

    The exit status is 1 if there are any.

    \b
    Example:
      draftbench data overlap sample_data/prompts/general/train.jsonl
    """
    from engine.cli.text import data as text
    from engine.data.packs.leaks import find_leaks
    from engine.progress import Progress

    report = find_leaks(files or [], progress=Progress())
    console.print_json(report) if as_json else text.overlap(report)
    if not report["ok"]:
        raise typer.Exit(1)
