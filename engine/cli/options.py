"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from engine.errors import DraftbenchError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
RecipeFile = Annotated[str, typer.Argument(help="Recipe file, for example recipes/quickstart.yaml.")]
MaybeRecipe = Annotated[str | None, typer.Argument(help="Recipe file, for example recipes/quickstart.yaml.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe key, as in --set train.epochs=2. Repeatable.")
]
MeasureSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a measuring key, as in --set measure.num_draft_tokens=5. Repeatable."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip and count invalid prompt rows instead of stopping.")]
ResumeRun = Annotated[str | None, typer.Option("--resume", help="Resume this run instead of starting a new one.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Where to run: local (this machine's queue), ray (RAY_ADDRESS, or a Ray on this machine), "
        "ray://HOST:PORT, slurm (or slurm://PARTITION?account=...).",
    ),
]
RunId = Annotated[
    str, typer.Argument(help="Name or id of a run, or its beginning; `latest`, or `latest~1` for the run before it.")
]
DType = Literal["auto", "float32", "bfloat16", "float16"]


def whole_numbers(option: str, text: str, *, least: int = 1, most: int) -> list[int]:
    """The numbers of '1,2,4', sorted, each once. Raises DraftbenchError for anything else, or one out of range."""
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not (part.isascii() and part.isdecimal() and least <= int(part) <= most)]
    if wrong:
        raise DraftbenchError(
            f"{option} {text}: {wrong[0]!r} is not a whole number from {least} to {most:,}",
            "",
            f"separate whole numbers by commas, as in {option} {least},{2 * least}",
        )
    return sorted({int(part) for part in parts})
