"""What to do next with a run that lacks something, in words that work for this very run.

Most samples come without their draft's weights: a command that needs them would only fail once more.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from engine.errors import DraftbenchError
from engine.measure.decision import Decision
from engine.runs.folder import RunFolder


def best_draft(run: RunFolder) -> Path:
    """The folder of the run's best draft. Raises DraftbenchError, with what makes one, if there is none."""
    if not has_weights(run):
        state = run.status().state
        why = "its weights were not kept, or not copied with it" if state == "done" else f"its state is {state}"
        raise DraftbenchError(f"run {run.id} has no draft", why, gives_a_draft(run))
    return run.path / "draft" / "best"


def measures_again(run: RunFolder) -> str:
    """What gives the run a whole measurement."""
    again = has_weights(run) or not trains(run)
    return f"`draftbench measure {run.id}` makes it again" if again else gives_a_draft(run)


def changes_of(decision: Decision, run: RunFolder) -> tuple[str, ...]:
    """What would change the decision, in commands for this very run.

    Without the draft's weights a measurement would be refused: the run's recipe, with the same settings, makes both.
    """
    measure = f"draftbench measure {run.id}"
    if gone := trains(run) and not has_weights(run):
        measure = f"draftbench run {quote(str(run.path / 'config.yaml'))}"
    changes = []
    for change in decision.changes:
        here = change.replace("draftbench measure RUN", measure).replace(" RUN", f" {run.id}")
        changes.append(f"{here} (trains it again: its weights are not here)" if gone and measure in here else here)
    return tuple(changes)


def gives_a_draft(run: RunFolder) -> str:
    """What makes the draft of a run whose weights are not here."""
    state = run.status().state
    if state in ("queued", "running"):
        return "wait for the run, which is still to make one"
    if not trains(run):
        return (
            "it only measured, and keeps no draft of its own: `draftbench run` trains one; the draft that it measured, "
            "if any, is where draft.checkpoint of its recipe says"
        )
    if state != "done":
        return f"finish it with `draftbench run --resume {run.id}`"
    return f"its draft's weights are not here: `draftbench run {quote(str(run.path / 'config.yaml'))}` trains it again"


def trains(run: RunFolder) -> bool:
    """Whether the run trains a draft; else it only measures, and keeps none."""
    try:
        return run.recipe().trains
    except DraftbenchError:  # damaged: the rest of the advice holds
        return True


def has_weights(run: RunFolder) -> bool:
    """Whether the run's folder holds its best draft, description and weights."""
    return all((run.path / "draft" / "best" / name).is_file() for name in ("draft.json", "draft.safetensors"))
