"""The result of `draftbench data magpie` as text. `--json` prints the same values in full."""

from __future__ import annotations

from engine.cli.text import console
from engine.magpie.prompt_file import MagpieResult

_EXAMPLE_CHARACTERS = 48


def magpie(report: MagpieResult) -> None:
    """Print how many queries were kept, why the others were removed, and where the prompts were written."""
    share = f"{report['kept']:,} of {report['raw']:,} raw queries kept ({report['kept_share']:.0%})"
    console.line(f"{report['name']}: {share}")
    rows = [
        [name, removed["count"], removed["meaning"], console.shortened(removed["example"], _EXAMPLE_CHARACTERS)]
        for name, removed in report["removed"].items()
        if removed["count"]
    ]
    if rows:
        console.table("", ["removed as", "number", "meaning", "example"], rows)
    if too_long := report["tool_sets"]["too_long"]:
        limit = report["recipe"]["max_tools_characters"]
        console.paragraph(
            f"Sets of tools that were offered: {report['tool_sets']['offered']:,}; left out as longer than "
            f"max_tools_characters {limit:,}: {too_long:,}."
        )
    if report["system_place"] == "user":
        console.paragraph("The chat template has no system role, so the steering text opens the user's turn instead.")
    console.line(f"prompts: {report['file']}")
    console.line(f"raw queries: {report['raw_file']}")
    console.paragraph(
        "The queries have no answers yet. Set prompts.train to the file and prompts.scenario to synthetic; the run's "
        "capture then lets its target answer them."
    )
