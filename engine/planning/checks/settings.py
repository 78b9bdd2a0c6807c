"""Check of the recipe itself: whether all that it gives has an effect."""

from __future__ import annotations

from engine.config.idle import idle_settings
from engine.planning.checks.subject import Finding, Subject, ok, warning


def idle(subject: Subject) -> Finding:
    """Report settings that nothing reads beside the others."""
    given = idle_settings(subject.recipe)
    if not given:
        return ok("all that differ from the default have an effect")
    return warning(
        f"without effect beside the other settings: {', '.join(given)}",
        "nothing to do for what a base gives; else leave it out, or change what makes it so: the mode, the loss, "
        "where the draft starts from",
    )
