"""What to do next with a run that lacks something, in words that work for this very run.

Most samples come without their draft's weights: a command that needs them would only fail once more.
"""

from __future__ import annotations

from engine.runs.folder import RunFolder


def measures_again(run: RunFolder) -> str:
    """What gives the run a whole measurement."""
    return f"`draftbench measure {run.id}` makes it again" if has_weights(run) else gives_a_draft(run)


def gives_a_draft(run: RunFolder) -> str:
    """What makes the draft of a run whose weights are not here."""
    if run.status()["state"] != "done":
        return f"finish it with `draftbench run --resume {run.id}`"
    return f"its draft's weights are not here: `draftbench run {run.path / 'config.yaml'}` trains it again"


def has_weights(run: RunFolder) -> bool:
    """Whether the run's best draft lies in its folder."""
    return (run.path / "draft" / "best" / "draft.json").is_file()
