"""Timing a run's draft by batch size and context length, without measuring anything else again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from engine.chat.rendering import render
from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.measure import step_times
from engine.measure.step_words import is_busy
from engine.models.context import context_of, least_context
from engine.models.draft import load_draft
from engine.numbers import number
from engine.records.step_times import StepTimes
from engine.runs.advice import measures_again
from engine.runs.folder import RunFolder
from engine.runs.process import now
from engine.runs.provenance import machine
from engine.runs.session import Session


def check_can_be_timed(run: RunFolder) -> None:
    """Raise DraftbenchError for a run without a measurement to add to, or without its target on this machine."""
    if not run.summary_path.exists():
        raise DraftbenchError(
            f"run {run.id} has no measurement", "step times are added to one", f"first: {measures_again(run)}"
        )
    if run.recipe().measure.against == "server":
        raise DraftbenchError(
            f"run {run.id} is measured against a server's text",
            "its target does not run here, so no step of it can be timed",
            f"`draftbench measure {run.id} --set measure.against=model` measures with the model at hand",
        )


def time_steps(session: Session, batch_sizes: Sequence[int], contexts: Sequence[int] | None) -> StepTimes:
    """Time each batch size at each context and keep every cell as soon as it is whole.

    `contexts`: tokens in each row's cache; None is the middle of one of the run's own answers. Cells that were timed
    before under the same conditions stay, unless they are timed again; others go with the first new cell. Raises
    DraftbenchError if a context does not fit the models, Cancelled between two turns if asked to stop.
    """
    target, folder, progress = session.target, session.run.path, session.progress
    draft = load_draft(folder / "draft" / "best", target)
    prompts = [
        render(target.tokenizer, prompt, context_tokens=None, max_new_tokens=0) for prompt in session.prompts.measured
    ]
    usual = usual_context(prompts, session.recipe.measure.max_new_tokens)
    limit = least_context(target.context_tokens, context_of(draft.model.config))
    chosen = list(contexts or [usual])
    _check_contexts(chosen, limit, contexts is None)
    record = _beginning(session, usual)
    for context in chosen:
        for batch_size in batch_sizes:
            texts = step_times.texts_of(prompts, batch_size, context + 1)
            cell = step_times.time_cell(target.model, draft.model, texts, progress=progress)
            record = record.with_cell(cell.model_copy(update={"recorded_at": now()}))
            record.write(folder)
            if is_busy(cell.load, record.machine):
                progress.note(f"other processes kept {number(cell.load, 1)} cores busy when this cell began")
    return record


def usual_context(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """Tokens in the middle of an answer, its prompt (ids) included: the median over the prompts, at least 2."""
    return max(2, int(statistics.median(len(ids) for ids in prompts)) + max_new_tokens // 2)


def _check_contexts(contexts: Sequence[int], limit: int | None, usual: bool) -> None:
    most = None if limit is None else limit - step_times.MOST_GAMMA - 2
    too_long = [context for context in contexts if most is not None and context > most]
    if too_long:
        raise DraftbenchError(
            f"a context of {too_long[0]:,} tokens does not fit",
            f"target and draft read {limit:,} tokens, and a round of gamma {step_times.MOST_GAMMA} follows",
            f"choose --contexts of at most {most:,}" + (", which the run's own answers exceed" if usual else ""),
        )


def _beginning(session: Session, usual: int) -> StepTimes:
    """The record to add to: the run's own if it was made under the same conditions, else an empty one."""
    target, folder = session.target, session.run.path
    new = StepTimes(
        machine=machine(),
        device=target.device.type,
        dtype=target.dtype_name,
        quantize=target.weights,
        threads=machine().threads,
        draft_sha256=read_json(folder / "draft" / "best" / "draft.json")["weights_sha256"],
        usual_context=usual,
    )
    try:
        old = StepTimes.read(folder)
    except DraftbenchError as error:
        session.progress.note(f"earlier step times cannot be read and are replaced: {error.what}")
        return new
    if old is None:
        return new
    if old.conditions() == new.conditions():
        return new.model_copy(update={"cells": old.cells})
    session.progress.note(
        f"{len(old.cells)} earlier cells were timed under other conditions (machine, device, precision, threads or "
        "draft) and go as soon as the first new cell is whole"
    )
    return new
