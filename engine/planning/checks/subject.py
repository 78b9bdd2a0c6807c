"""The recipe that the checks look at, with its parts read once, and the result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from engine.chat.prompt import Prompt
from engine.config.schema import Recipe
from engine.data.overlap import Repeat, remove_overlap
from engine.data.readers import PromptSet, read_prompts
from engine.errors import DraftbenchError
from engine.models.context import context_of
from engine.models.head import text_config
from engine.models.load import load_tokenizer
from engine.paths import Home
from engine.planning.estimate import Estimate, estimate
from engine.planning.outlines import (
    at_hand,
    draft_shapes,
    needs_own_code,
    own_code_is_needed,
    target_shapes,
    tokenizer_needs_own_code,
)

State = Literal["ok", "warning", "failed"]
Finding = tuple[State, str, str]
"""State, message, and what to do about it ('' if there is nothing to do)."""


@dataclass(frozen=True)
class Check:
    """One thing looked at. A warning does not keep a run from starting, a failure does."""

    name: str
    state: State
    message: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return self.state != "failed"


def ok(message: str) -> Finding:
    return "ok", message, ""


def warning(message: str, fix: str = "") -> Finding:
    return "warning", message, fix


def failed(message: str, fix: str) -> Finding:
    return "failed", message, fix


class Subject:
    """A recipe that is checked. Its parts are read when first needed, and raise DraftbenchError if they cannot be."""

    def __init__(self, home: Home, recipe: Recipe) -> None:
        self.home, self.recipe = home, recipe

    @cached_property
    def tokenizer(self) -> Any:
        """The target's, read without running code that ships with it."""
        return load_tokenizer(self.recipe.target.model_copy(update={"trust_remote_code": False}))

    @cached_property
    def outline(self) -> Any:
        """The target on the meta device, without its weights, built from Transformers' own code alone."""
        return target_shapes(self.recipe.target)

    @property
    def config(self) -> Any:
        return text_config(self.outline)

    @cached_property
    def draft_context(self) -> int | None:
        """Tokens that the draft can read; None without a limit, or where it is not at hand (its own check says so)."""
        if self.recipe.draft.checkpoint is None:
            return None  # made from the target
        try:
            shapes = draft_shapes(self.home, self.recipe, self.outline)
        except DraftbenchError:
            return None
        return None if shapes is None else context_of(shapes.config)

    @cached_property
    def fetched(self) -> bool:
        return at_hand(self.recipe.target) is not None

    @cached_property
    def estimate(self) -> Estimate:
        return estimate(self.home, self.recipe)

    def not_fetched(self) -> Finding:
        """The finding for a target that is fetched when the run begins."""
        name = self.recipe.target.model
        return warning(
            f"{name} is not on this machine yet: this is looked at when the run begins", "`draftbench fetch`"
        )

    def unseen(self, *, model: bool = True, tokenizer: bool = False) -> Finding | None:
        """Why the target's model or its tokenizer cannot be looked at before the run begins; None if it can.

        Raises DraftbenchError for a target that needs code of its own and is not trusted.
        """
        target = self.recipe.target
        if not self.fetched:
            return self.not_fetched()
        if not ((model and needs_own_code(target)) or (tokenizer and tokenizer_needs_own_code(target))):
            return None
        if not target.trust_remote_code:
            raise own_code_is_needed(target.model)
        return warning(
            f"{target.model} is code that ships with it, which is not run here: this is looked at when the run begins"
        )

    @cached_property
    def _sets(self) -> dict[str, PromptSet | DraftbenchError]:
        sets: dict[str, PromptSet | DraftbenchError] = {}
        for side, sources in (("train", self.recipe.prompts.train), ("heldout", self.recipe.prompts.heldout)):
            if not sources:
                continue  # a run that only measures has nothing to train on
            try:
                sets[side] = read_prompts(sources, skip_bad=True)
            except DraftbenchError as error:
                sets[side] = error
        return sets

    def prompts(self, side: str) -> PromptSet:
        """The prompts of a side, 'train' or 'heldout', and its bad rows."""
        prompts = self._sets[side]
        if isinstance(prompts, DraftbenchError):
            raise prompts
        return prompts

    def readable(self) -> bool:
        """Return whether both sides can be read."""
        return not any(isinstance(prompts, DraftbenchError) for prompts in self._sets.values())

    @cached_property
    def without_overlap(self) -> tuple[list[Prompt], list[Repeat]]:
        """Training prompts that repeat no held-out one, and those that do."""
        return remove_overlap(self.prompts("train").prompts, self.prompts("heldout").prompts)
