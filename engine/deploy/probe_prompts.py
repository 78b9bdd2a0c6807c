"""The prompts that a probe sends: those of a file, or a run's measured held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

from engine.chat.prompt import Prompt
from engine.config.reading import parse_section
from engine.config.schema import PromptSource
from engine.data.readers import read_prompts
from engine.data.subsets import distinct
from engine.deploy.prediction import Predictor
from engine.errors import DraftbenchError
from engine.records.summary import Summary
from engine.runs.folder import RunFolder

_TOKENS = 160  # of an answer, where no run says how many


def prompts_of(file: str | None, run: RunFolder | None, limit: int) -> tuple[Sequence[Prompt], tuple[str, ...]]:
    """At most `limit` prompts, no two alike, and what there is to say of them, in sentences.

    Raises DraftbenchError where there are none to be had.
    """
    if file is not None:
        read = read_prompts([parse_section(PromptSource, {"path": file})]).prompts
        once = distinct(read)
        said = f"{len(read) - len(once):,} of {len(read):,} prompts repeat another one and are left out"
        return once[:limit], (said,) if len(once) < len(read) else ()
    if run is None:
        raise DraftbenchError(
            "no prompts to send",
            "a server is asked prompts of a file, or the held-out ones of a run",
            "give --prompts FILE or --run RUN",
        )
    spec = run.recipe().prompts
    measured = set(Predictor.of_run(run.path, run.id).positions.prompt_id)
    heldout = read_prompts(spec.heldout, skip_bad=spec.skip_bad, stored=True).prompts
    chosen = [prompt for prompt in heldout if prompt.id in measured]
    if not chosen:
        raise DraftbenchError(
            f"none of run {run.id}'s measured prompts is in its held-out files any more",
            f"{len(measured)} were measured",
            "give --prompts FILE",
        )
    return chosen[:limit], ()


def tokens_of(run: RunFolder | None) -> int:
    """Tokens of an answer: as the run was measured, since acceptance is that of answers so long."""
    summary = Summary.read_or_empty(run.path) if run is not None else Summary()
    return summary.conditions.max_new_tokens or _TOKENS
