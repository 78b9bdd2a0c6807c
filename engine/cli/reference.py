"""The commands that print what a recipe may say: `losses` and `schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.catalogue import LOSSES
from engine.cli.options import Json
from engine.cli.text import console


def losses(as_json: Json = False) -> None:
    """List the losses with formula and source.

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


def schema(as_json: Json = False) -> None:
    """List every key of a recipe with its default and meaning.

    Defaults are written as in a recipe: null stands for an empty value.

    \b
    Example:
      draftbench schema
    """
    from engine.config.reading import one_line, schema_rows

    rows = schema_rows()
    if as_json:
        console.print_json(rows)
    else:
        console.entries((f"{row['key']} = {one_line(row['default'])}", _meaning(row)) for row in rows)


def _meaning(row: Mapping[str, Any]) -> str:
    """What a key means, with its choices where the words do not name them all."""
    named = all(choice in row["meaning"] for choice in row["choices"])
    return row["meaning"] if named else f"{row['meaning']} [{', '.join(row['choices'])}]"
