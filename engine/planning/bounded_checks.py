"""Checks and estimates of recipes for the pages: in a process of their own, which is ended when it takes too long.

    python -m engine.runs.aside SECONDS

The same as `preflight.checks` and `estimate` make, as far as the limits go.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.bounded import Helpers, serve
from engine.config import Recipe, parse_recipe
from engine.errors import DraftbenchError
from engine.paths import Home

if TYPE_CHECKING:
    from engine.runs.preflight import Check, Estimate

SECONDS = 120.0
HELPERS = Helpers("engine.runs.aside", SECONDS)


def checked(home: Home, recipe: Recipe) -> list[Check]:
    """Every check of a recipe; what they cannot finish is a failed check."""
    from engine.runs.preflight import Check  # needs torch

    try:
        return [Check(**found) for found in HELPERS.ask(_request("checks", home, recipe))]
    except DraftbenchError as error:
        return [
            Check("time and memory", "failed", f"{error.what}: {error.why}" if error.why else error.what, error.fix)
        ]


def estimated(home: Home, recipe: Recipe) -> Estimate:
    """The estimate of a recipe. Raises DraftbenchError where it takes too long."""
    from engine.runs.preflight import Estimate  # needs torch

    found: dict[str, Any] = HELPERS.ask(_request("estimate", home, recipe))
    parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Estimate(**parts)


def _request(kind: str, home: Home, recipe: Recipe) -> dict[str, Any]:
    return {"kind": kind, "home": str(home.root), "recipe": recipe.model_dump(mode="json")}


def _do(request: dict[str, Any]) -> Any:
    from engine.runs import preflight

    home, recipe = Home(Path(request["home"])), parse_recipe(request["recipe"])
    if request["kind"] == "checks":
        return [dataclasses.asdict(check) for check in preflight.checks(home, recipe)]
    return dataclasses.asdict(preflight.estimate(home, recipe))


if __name__ == "__main__":
    import engine.runs.preflight  # noqa: F401  before the first work: importing torch takes seconds

    serve(_do)
