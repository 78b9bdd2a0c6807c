"""Plan what a Magpie recipe makes the target write, before the target's weights are loaded."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engine.chat.prompt import Prompt, Tool
from engine.chat.rendering import template_hash
from engine.chat.template_date import clock_identity
from engine.config.schema import ModelSpec
from engine.data.readers import SourceInfo, read_prompts
from engine.errors import DraftbenchError
from engine.fileio import content_hash
from engine.magpie.recipe import MagpieRecipe
from engine.magpie.user_turn import Opening, find_opening
from engine.models.load import load_tokenizer, model_fingerprint, resolve_device, resolve_dtype
from engine.paths import Home
from engine.runs.recipes import absolute_model

_FORMAT = 1  # increase it when the meaning of the raw lines changes


@dataclass(frozen=True)
class ToolSet:
    """Tools offered to the user of one query, and the group of the prompt they come from."""

    tools: tuple[Tool, ...] = ()
    group: str = ""


class Steering(NamedTuple):
    """What comes before the target's own words in a query. `words` begin the user's turn; "" leaves it open."""

    system: str | None
    tool_set: int
    words: str


@dataclass(frozen=True)
class Plan:
    """The inputs of a Magpie recipe: tokenizer, tool sets, held-out prompts, and the folder of the raw queries."""

    recipe: MagpieRecipe
    target: ModelSpec  # with absolute paths
    tokenizer: Any
    tool_sets: list[ToolSet]  # a single empty one if no tools are offered
    long_tool_sets: int  # left out because their JSON is longer than `max_tools_characters`
    heldout: list[Prompt]
    sources: dict[str, list[SourceInfo]]
    spec: dict[str, Any]
    folder: Path

    @property
    def address(self) -> str:
        return content_hash(self.spec)

    @property
    def raw_file(self) -> Path:
        return self.folder / "raw.jsonl"

    def steering(self, number: int) -> Steering:
        """The steering of a query: system prompts take turns; tool set and first words are drawn by seed and number."""
        systems = self.recipe.system
        drawn = random.Random(f"{self.recipe.seed}:{number}").randrange(len(self.tool_sets))
        return Steering(systems[number % len(systems)], drawn, self._words(number, self.tool_sets[drawn].tools))

    def opening(self, steering: Steering) -> Opening:
        """The ids before the target's own words, and what ends the user's turn."""
        return find_opening(
            self.tokenizer,
            system=steering.system,
            tools=self.tool_sets[steering.tool_set].tools,
            words=steering.words,
            context_tokens=None,
            max_new_tokens=self.recipe.max_new_tokens,
        )

    def _words(self, number: int, tools: Sequence[Tool]) -> str:
        """The first words of a query. Each round uses all openings once, in an order of its own."""
        recipe = self.recipe
        round_, position = divmod(number, len(recipe.openings))
        order = random.Random(f"{recipe.seed}:openings:{round_}").sample(recipe.openings, len(recipe.openings))
        words = order[position]
        if words is None or not recipe.openings_from_tools:
            return words or ""
        tool = random.Random(f"{recipe.seed}:tool:{number}").choice(tools)
        return f"{words} {_spoken_name(tool)}"


def plan_queries(home: Home, recipe: MagpieRecipe, beside: Path) -> Plan:
    """Read everything that a recipe names and try the template, without the target's weights."""
    target = absolute_model(recipe.target, beside)
    tokenizer = load_tokenizer(target)
    template = template_hash(tokenizer)
    tool_sets, long_tool_sets, tool_sources = _tool_sets(recipe, beside)
    heldout = read_prompts(recipe.heldout, relative_to=beside) if recipe.heldout else None
    spec = {
        "format": _FORMAT,
        "target": model_fingerprint(target),
        "dtype": str(resolve_dtype(target.dtype, resolve_device(target.device))).removeprefix("torch."),
        "template": template,
        "system": recipe.system,
        "tools": content_hash([tool_set.tools for tool_set in tool_sets]),
        "temperature": recipe.temperature,
        "top_p": recipe.top_p,
        "top_k": recipe.top_k,
        "max_new_tokens": recipe.max_new_tokens,
        "seed": recipe.seed,
        **clock_identity(tokenizer),
    }
    if recipe.openings != [None]:  # the address of recipes without openings must not change
        spec |= {"openings": recipe.openings, "openings_from_tools": recipe.openings_from_tools}
    folder = home.root / "magpie" / f"{recipe.name}-{content_hash(spec)[:16]}"
    sources = {"tools": tool_sources, "heldout": heldout.sources if heldout else []}
    prompts = heldout.prompts if heldout else []
    plan = Plan(recipe, target, tokenizer, tool_sets, long_tool_sets, prompts, sources, spec, folder)
    for number in range(max(len(recipe.system), len(recipe.openings))):
        plan.opening(plan.steering(number))  # refuses an unfit template or opening early
    return plan


def _spoken_name(tool: Tool) -> str:
    """The words of a tool's name: "search flights" for search_flights, Flights.search becomes "flights search"."""
    name = str(tool["function"]["name"])
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", name).split()).lower()


def _tool_sets(recipe: MagpieRecipe, beside: Path) -> tuple[list[ToolSet], int, list[SourceInfo]]:
    """The distinct tool sets of the prompts in `tools_from` that are short enough, in order; how many are too long."""
    if not recipe.tools_from:
        return [ToolSet()], 0, []
    offered = read_prompts(recipe.tools_from, relative_to=beside)
    by_schema = {json.dumps(p.tools, sort_keys=True): ToolSet(p.tools, p.group) for p in offered.prompts if p.tools}
    short = [tool_set for schema, tool_set in by_schema.items() if len(schema) <= recipe.max_tools_characters]
    if not short:
        raise DraftbenchError(
            f"tools_from holds no tool set of at most {recipe.max_tools_characters} characters "
            f"({len(by_schema)} longer ones, {len(offered.prompts)} prompts)",
            "each query is written with the tools of one of these prompts",
            "name prompts with tools, raise max_tools_characters, or leave tools_from out",
        )
    return short, len(by_schema) - len(short), offered.sources
