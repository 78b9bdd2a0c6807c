"""What the target wrote and what was kept of it, as text for a terminal. `--json` prints the same values whole."""

from __future__ import annotations

from typing import Any

from engine.cli.text import console

_EXAMPLE_CHARACTERS = 48


def magpie(told: dict[str, Any]) -> None:
    """How many queries were kept, why the others went with an example of each, and where the prompts lie."""
    console.line(f"{told['name']}: {told['kept']:,} of {told['raw']:,} raw queries kept ({told['kept_share']:.0%})")
    rows = [
        [name, removed["count"], removed["meaning"], _short(removed["example"])]
        for name, removed in told["removed"].items()
        if removed["count"]
    ]
    if rows:
        console.table("", ["why the others went", "number", "which means", "for example"], rows)
    if told["system_place"] == "user":
        console.paragraph("The template knows no system role: the steering opens the user's turn instead.")
    console.line(f"prompts: {told['file']}")
    console.line(f"raw queries: {told['raw_file']}")
    console.paragraph(
        "These are queries without answers: name the file as prompts.train with prompts.scenario: synthetic, "
        "and the run's capture lets its target answer them."
    )


def _short(text: str) -> str:
    """The beginning of a text in one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _EXAMPLE_CHARACTERS else flat[: _EXAMPLE_CHARACTERS - 1] + "…"
