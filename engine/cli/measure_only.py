"""`measure-only`: a run that trains nothing and measures a model as it is."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.keys import confirmed
from engine.cli.options import Json, MeasureSettings, On, SkipBad
from engine.cli.run import carry_out
from engine.paths import home


def measure_only(
    model: Annotated[
        str, typer.Argument(help="A model folder, a .gguf file, asset:NAME, hub:ORG/NAME, or a server's URL.")
    ],
    prompts: Annotated[list[str], typer.Option("--prompts", help="Prompt file, as for a recipe. Repeatable.")],
    draft: Annotated[
        str | None,
        typer.Option("--draft", help="Measure this draft with it: a run, a draft folder or a smaller model."),
    ] = None,
    settings: MeasureSettings = None,
    skip_bad: SkipBad = False,
    queue: Annotated[bool, typer.Option("--queue", help="Run in the background and return at once.")] = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Measure a model as it is, without training, in about a minute.

    Without a draft: the speed of plain decoding, and of Transformers' own generate. With one: its acceptance, its
    speed-up and the losslessness certificate. For a server: how fast it answers.

    \b
    Example:
      draftbench measure-only asset:smollm2-135m-instruct --prompts sample_data/prompts/biology/heldout.jsonl
      draftbench measure-only models/mine --prompts sample_data/prompts/biology/train.jsonl --draft latest
      draftbench measure-only http://127.0.0.1:8000/v1 --prompts sample_data/prompts/biology/heldout.jsonl
    """
    from engine.runs.as_it_is import recipe_as_it_is

    asked = [*(settings or []), *(["prompts.skip_bad=true"] if skip_bad else [])]
    carry_out(
        lambda: confirmed(recipe_as_it_is(home(), model, prompts, draft, asked)), queue=queue, on=on, as_json=as_json
    )
