"""Checks and estimates of recipes for the pages: in a process of their own, which is ended when it takes too long.

    python -m engine.planning.bounded_checks SECONDS

The same as `engine.planning.checks` and `engine.planning.estimate` make, as far as the limits go.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.paths import Home
from engine.planning.bounded import Helpers, serve

if TYPE_CHECKING:
    from engine.planning.checks import Check
    from engine.planning.estimate import Estimate

SECONDS = 120.0
HELPERS = Helpers("engine.planning.bounded_checks", SECONDS)


def checked(home: Home, recipe: Recipe) -> list[Check]:
    """Every check of a recipe; what they cannot finish is a failed check."""
    from engine.planning.checks import Check  # needs torch

    try:
        return [Check(**fields) for fields in HELPERS.ask(_request("checks", home, recipe))]
    except DraftbenchError as error:
        return [
            Check("time and memory", "failed", f"{error.what}: {error.why}" if error.why else error.what, error.fix)
        ]


def estimated(home: Home, recipe: Recipe) -> Estimate:
    """The estimate of a recipe. Raises DraftbenchError where it takes too long."""
    from engine.planning.estimate import Estimate  # needs torch

    fields: dict[str, Any] = HELPERS.ask(_request("estimate", home, recipe))
    tuples: dict[str, Any] = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return Estimate(**fields | tuples)


def tried(home: Home, recipe: Recipe) -> None:
    """Try target and draft for five seconds, for the estimate. Raises DraftbenchError where they cannot be."""
    HELPERS.ask(_request("probe", home, recipe))


def _request(kind: str, home: Home, recipe: Recipe) -> dict[str, Any]:
    return {"kind": kind, "home": str(home.root), "recipe": recipe.model_dump(mode="json")}


def _do(request: dict[str, Any]) -> Any:
    from engine.planning.checks import checks
    from engine.planning.estimate import estimate
    from engine.planning.probe import probe
    from engine.runs.session import load_target

    home, recipe = Home(Path(request["home"])), parse_recipe(request["recipe"])
    if request["kind"] == "checks":
        return [dataclasses.asdict(check) for check in checks(home, recipe)]
    if request["kind"] == "probe":
        probe(home, recipe, load_target(recipe))
        return {}
    return dataclasses.asdict(estimate(home, recipe))


if __name__ == "__main__":
    import engine.planning.checks  # noqa: F401  before the first work: importing torch takes seconds

    serve(_do)
