"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
RecipeFile = Annotated[str, typer.Argument(help="A recipe, for example recipes/quickstart.yaml.")]
MaybeRecipe = Annotated[str | None, typer.Argument(help="A recipe, for example recipes/quickstart.yaml.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set train.epochs=2. Repeatable.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on past bad prompt rows and count them.")]
ResumeRun = Annotated[str | None, typer.Option("--resume", help="Go on with this run instead of starting one.")]
RunId = Annotated[str, typer.Argument(help="A run id, its beginning, or latest (latest~1: the one before).")]
DType = Literal["auto", "float32", "bfloat16", "float16"]
