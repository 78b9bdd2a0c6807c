"""The first two recipes of a user's own model: measure it as it is, and train a draft for it.

The first is made to take about a minute for a small target on two cores: a dozen prompts, short answers, temperature 0.
The second is made for minutes: few layers, a short vocabulary, a few epochs. Every setting can be changed like those of
any recipe.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config.reading import apply_overrides, parse_recipe, with_settings
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import read_object
from engine.paths import Home, resolve_input
from engine.runs.folder import RunFolder
from engine.runs.recipes import with_absolute_paths
from engine.served.client import listed_models

_BRIEF: dict[str, Any] = {
    "temperatures": [0.0],
    "max_new_tokens": 32,
    "heldout_prompts": 12,
    "trace_prompts": 4,
    "speed_prompts": 6,  # the fewest with an interval to trust: `engine.numbers.LEAST_PROMPTS`
    "speed_tokens": 24,
    "certificate_prompts": 2,
    "certificate_tokens": 8,
}
_UNNAMED = "-"  # a server's model that is still to be asked for
_DEEP = 4  # layers of a target from which a draft of two is still far cheaper
_SHORT_HEAD = 8192  # ids: most of a small draft's time goes into its head
_BRIEF_ALONE: dict[str, Any] = {**_BRIEF, "speed_prompts": 8, "speed_tokens": 48}


def recipe_as_it_is(
    home: Home, model: str, prompts: Sequence[str], draft: str | None = None, settings: Sequence[str] = ()
) -> Recipe:
    """The recipe that measures `model` on prompt files, with `draft` (a run, a folder, a model) or alone.

    An address as `model` is that of a server, whose speed is measured. `settings`: `key=value` over it. Raises
    DraftbenchError for what is not there, or does not go together.
    """
    if model.startswith(("http://", "https://")):
        return _recipe_of_server(home, model, prompts, draft, settings)
    values: dict[str, Any] = {
        "name": f"as-it-is-{short_name(model)}",
        "task": "measure",
        "target": {"model": model},
        "draft": {"init": "none"} if draft is None else {"init": "checkpoint", "checkpoint": draft},
        "prompts": {"heldout": [{"path": path} for path in prompts]},
        "measure": _BRIEF_ALONE if draft is None else _BRIEF,
    }
    return with_absolute_paths(parse_recipe(apply_overrides(values, settings)), Path.cwd(), home)


def _recipe_of_server(
    home: Home, url: str, prompts: Sequence[str], draft: str | None, settings: Sequence[str]
) -> Recipe:
    """The recipe that times a server. Its model is the one that it lists, unless `settings` name one."""
    if draft is not None:
        raise DraftbenchError(
            f"a draft with the server {url}",
            "acceptance needs the probabilities of the target, which is not here",
            "leave the draft out, or name the target's folder instead of its server",
        )
    values: dict[str, Any] = {
        "name": "as-it-is-served",
        "task": "measure",
        "draft": {"init": "none"},
        "prompts": {"heldout": [{"path": path} for path in prompts]},
        "capture": {"server": {"base_url": url, "model": _UNNAMED}, "signal": "none"},
        "measure": {**_BRIEF_ALONE, "against": "server"},
    }
    recipe = parse_recipe(apply_overrides(values, settings))
    server = recipe.capture.server
    if server is not None and server.model == _UNNAMED:
        listed = listed_models(server)
        if len(listed) != 1:
            raise DraftbenchError(
                f"{url} lists {len(listed)} models",
                "a request names one",
                f"add --set capture.server.model=NAME{': ' + ', '.join(listed[:8]) if listed else ''}",
            )
        recipe = parse_recipe(with_settings(recipe.model_dump(mode="json"), {"capture.server.model": listed[0]}))
    return with_absolute_paths(recipe, Path.cwd(), home)


def recipe_to_train(
    home: Home,
    model: str,
    train: str,
    heldout: str,
    *,
    layers: int | None,
    ids: int | None,
    draft: str | None = None,
    skip_bad: bool = False,
) -> Recipe:
    """The recipe that trains a first draft for `model`: from `draft` if there is one, else from the target's layers.

    `layers` and `ids`: how many the target has, None where that is not known.
    """
    start: dict[str, Any] = {"init": "checkpoint", "checkpoint": draft}
    if draft is not None and not _shares(home, draft):
        start["share_embeddings"] = False  # its own, and perhaps of another width
    if draft is None:
        start = {"init": "layers", "layers": 1 if layers is not None and layers < _DEEP else 2}
        start |= {"vocabulary": _SHORT_HEAD} if ids is not None and ids > 2 * _SHORT_HEAD else {}
    values: dict[str, Any] = {
        "name": f"draft-for-{short_name(model)}",
        "target": {"model": model},
        "draft": start,
        "prompts": {"train": train, "heldout": heldout, "skip_bad": skip_bad},
        "capture": {"max_new_tokens": 96},
        "train": {"epochs": 5, "eval_prompts": 8, **({} if draft is None else {"learning_rate": 5e-4})},
        "measure": {
            "heldout_prompts": 40,
            "max_new_tokens": 64,
            "trace_prompts": 12,
            "speed_prompts": 12,
            "speed_tokens": 48,
            "certificate_prompts": 2,
            "certificate_tokens": 16,
        },
    }
    return with_absolute_paths(parse_recipe(values), Path.cwd(), home)


def _shares(home: Home, draft: str) -> bool:
    """Whether a draft is one of Draftbench, a folder or a run's, that uses its target's embeddings."""
    card = Path("draft.json")
    with contextlib.suppress(DraftbenchError):
        card = resolve_input(draft) / card
    if not card.is_file() and RunFolder.exists(home, draft):
        card = RunFolder.open(home, draft).path / "draft" / "best" / card
    return card.is_file() and bool(read_object(card).get("info", {}).get("share_embeddings"))


def short_name(model: str) -> str:
    """A model's name as part of a run's name: 'smollm2-135m-instruct' for `asset:smollm2-135m-instruct`."""
    last = Path(model.rstrip("/").rpartition(":")[2]).name.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[:40] or "model"
