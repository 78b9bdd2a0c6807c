"""Checks and estimates of recipes for the pages: in a process of their own, which is ended when it takes too long.

    python -m engine.planning.bounded_checks SECONDS

The same as `engine.planning.checks` and `engine.planning.estimate` make, as far as the limits go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    from engine.planning.own_prompts import Split
    from engine.planning.recognise import Recognised

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


def recognised(name: str) -> Recognised:
    """What a name of a model stands for. Raises DraftbenchError as `engine.planning.recognise` does."""
    from engine.planning.recognise import Recognised  # needs torch

    return Recognised(**HELPERS.ask({"kind": "model", "model": name}))


def prompts_checked(files: Sequence[str], target: str | None) -> dict[str, Any]:
    """The report on prompt files under a target's template, or of what needs no target; bad rows are listed in it."""
    report: dict[str, Any] = HELPERS.ask({"kind": "prompts", "files": list(files), "target": target})
    return report


def prompts_split(home: Home, name: str, *, skip_bad: bool) -> Split:
    """A user's prompts as two sides."""
    from engine.planning.own_prompts import Split  # reads what strangers wrote

    fields = HELPERS.ask({"kind": "split", "home": str(home.root), "name": name, "skip_bad": skip_bad})
    return Split(**fields | {"steps": tuple(fields["steps"])})


def _request(kind: str, home: Home, recipe: Recipe) -> dict[str, Any]:
    return {"kind": kind, "home": str(home.root), "recipe": recipe.model_dump(mode="json")}


def _do(request: dict[str, Any]) -> Any:
    from engine.planning.checks import checks
    from engine.planning.estimate import estimate
    from engine.planning.own_prompts import split
    from engine.planning.probe import probe
    from engine.planning.prompt_check import check_prompts, count_prompts
    from engine.planning.recognise import recognise
    from engine.runs.session import load_target

    if request["kind"] == "model":
        return dataclasses.asdict(recognise(request["model"]))
    if request["kind"] == "prompts" and request["target"] is None:
        return count_prompts(request["files"], skip_bad=True)
    if request["kind"] == "prompts":
        return check_prompts(request["files"], request["target"], skip_bad=True)
    if request["kind"] == "split":
        return dataclasses.asdict(split(Home(Path(request["home"])), request["name"], skip_bad=request["skip_bad"]))
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
