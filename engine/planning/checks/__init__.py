"""Checks of a recipe before anything is started: each says what it found, and what to do if that is not right.

Vocabulary comes first, because a draft that means other tokens by the same ids wastes everything after it. Nothing is
fetched, no weights are read, and no check raises.

subject   the recipe that is checked, with its parts read once, and the result of a check
settings  the recipe itself: what it gives without effect
models    target and draft: vocabulary, shapes, chat template, generation settings
prompts   the prompts: reading, repeats, overlap, length
machine   device, memory, disk and server
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engine.config.schema import Recipe
from engine.errors import DraftbenchError, first_line
from engine.paths import Home
from engine.planning.checks import machine, models, prompts, settings
from engine.planning.checks.subject import Check, Finding, Subject, failed

__all__ = ["Check", "checks"]

CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "vocabulary": models.vocabulary,
    "settings": settings.idle,
    "target": models.target,
    "draft": models.draft,
    "reference": models.reference,
    "loss": models.loss,
    "chat template": models.chat_template,
    "end of turn": models.end_of_turn,
    "generation settings": models.generation_settings,
    "training prompts": partial(prompts.source, side="train"),
    "held-out prompts": partial(prompts.source, side="heldout"),
    "overlap": prompts.overlap,
    "prompt length": prompts.length,
    "prompts in the template": prompts.in_the_template,
    "remote code": models.remote_code,
    "device": machine.device,
    "memory": machine.memory,
    "disk": machine.disk,
    "server": machine.server,
}


def checks(home: Home, recipe: Recipe) -> list[Check]:
    """Every check in order, each made even if an earlier one failed; none of what the recipe does not have: a server, a
    training, a draft, a reference."""
    subject = Subject(home, recipe)
    without = set() if recipe.trains else {"reference", "loss", "training prompts", "overlap"}
    without |= set() if recipe.train.selection.reference is not None else {"reference"}
    without |= set() if recipe.has_draft else {"vocabulary", "draft"}
    without |= set() if recipe.capture.server is not None else {"server"}
    names = [name for name in CHECKS if name not in without]
    if recipe.times_server:  # nothing of a model is here
        names = ["settings", "held-out prompts", "server"]
    return [_checked(name, subject) for name in names]


def _checked(name: str, subject: Subject) -> Check:
    try:
        finding = CHECKS[name](subject)
    except DraftbenchError as error:
        finding = failed(f"{error.what} ({error.why})" if error.why else error.what, error.fix)
    except Exception as error:  # a stranger's model can break a library in many ways; the page must still be drawn
        finding = failed(f"{type(error).__name__}: {first_line(error)}", "look at the model and the prompts it names")
    return Check(name, *finding)
