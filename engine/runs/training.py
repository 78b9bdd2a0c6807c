"""Training a run's draft: captures, the batches of the mode, the trainer, and the record of what was done.

On several processes the first one makes the captures and keeps the records; the others read what it left on disk.
Each part leaves something whole on disk and is skipped when that is there, so a run that was killed anywhere goes on
from the same folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engine.capture.plan import CapturePlan
from engine.capture.store import Capture
from engine.chat.prompt import prompts_hash
from engine.decode.sampling import Sampling
from engine.distill.checkpoint import drop_checkpoints
from engine.distill.modes import Material, Query, batch_source
from engine.distill.reading import refuse_trimmed
from engine.distill.selection import SelectedBatches
from engine.distill.source import BatchSource
from engine.distill.trainer import Trainer
from engine.measure.acceptance import exact_acceptance, mean_overlap
from engine.models.context import refuse_beyond_draft, refuse_decoded_beyond
from engine.models.draft import Draft, check_trim, parameter_counts
from engine.models.head import Head
from engine.models.precision import copy_in, renew
from engine.records.events import DraftMade
from engine.records.provenance import DraftParameters, PromptCounts, Provenance, Seeds
from engine.records.training import Training
from engine.runs.drafts import adapted, keep_shared, reference_draft, trim_to_answers, untrained_draft, weights_hash
from engine.runs.plan import decoded_texts, plan_run
from engine.runs.provenance import provenance, versions
from engine.runs.session import Session, capture_for_training, capture_training
from engine.served.agreement import mean_agreement, text_agreement

_SAME = ("draftbench", "torch", "transformers", "peft")  # versions that the processes of one training must share


@dataclass(frozen=True)
class _Prepared:
    """What a training begins with. `answers`: None where a stream is decoded."""

    draft: Draft
    plan: CapturePlan
    answers: Capture | None
    watched: Mapping[float, Capture]


def train(session: Session) -> None:
    """Train the run's draft, or go on training it; `training.json` says how it went."""
    run, recipe, processes = session.run, session.recipe, session.processes
    prepared = processes.first_then_all(lambda: _prepare(session))
    draft, answers, watched = prepared.draft, prepared.answers, prepared.watched
    counts = parameter_counts(draft)
    batches = _batches(session, draft, prepared.plan, answers)
    _refuse_differences(session, batches)
    trainer = Trainer(
        draft,
        batches,
        recipe.train,
        run.path,
        evaluate=_watch(session, watched),
        emit=run.emit,
        progress=session.progress,
        processes=processes,
    )
    if processes.first:
        _provenance(session, answers, watched, counts).write(run.path)
    outcome = trainer.run()
    if processes.first:
        Training.model_validate(asdict(outcome)).write(run.path)
        drop_checkpoints(run.path)  # only now: without training.json a resume begins at the last of them
    together = f" on {processes.count} processes" if processes.count > 1 else ""
    session.progress.note(
        f"trained {outcome.steps_done} of {outcome.steps} steps on {outcome.tokens_seen:,} tokens "
        f"in {outcome.seconds:.0f} s{together}; best at step {outcome.best_step}"
    )


def _prepare(session: Session) -> _Prepared:
    """The draft and the captures of a training, made or found on disk."""
    home, run, recipe, target = session.home, session.run, session.recipe, session.target
    draft, size = untrained_draft(home, recipe, target), recipe.draft.vocabulary
    if size is not None:  # before the captures: a draft that does not fit should not cost them first
        check_trim(draft, target, size)
    refuse_trimmed(recipe.capture.signal, Head.of(draft.model).ids)
    lora = recipe.draft.lora
    shared = None if lora is None else keep_shared(home, run, recipe, draft)
    plan = plan_run(home.captures, recipe, target, session.prompts)
    refuse_beyond_draft(draft.model, plan.texts)
    again = decoded_texts(plan.heldout, session.prompts, recipe.measure)
    refuse_decoded_beyond(target.model, draft.model, again)
    if session.processes.first:
        answers, watched = capture_for_training(plan, recipe, target, session.progress)
    else:  # it evaluates nothing
        answers, watched = capture_training(plan, recipe, target, session.progress), {}
    if size is not None:
        assert answers is not None  # the schema refuses a trimmed vocabulary without captured answers
        draft = trim_to_answers(draft, target, size, answers)
    if shared is not None:
        draft = adapted(draft, recipe, shared)
    counts = parameter_counts(draft)
    session.progress.note(
        f"draft: {counts['total']:,} parameters, {counts['own']:,} of its own, {counts['trained']:,} trained"
        + ("" if lora is None else f" (LoRA of rank {lora.rank} on a shared draft)")
    )
    run.emit(DraftMade.model_validate({**counts, "lora_rank": None if lora is None else lora.rank}))
    if answers is not None:
        _note_vocabulary(session, answers, Head.of(draft.model).ids)
    assert plan.training is not None
    return _Prepared(draft, plan.training, answers, watched)


def _refuse_differences(session: Session, batches: BatchSource) -> None:
    """Raise DraftbenchError unless all processes train the same thing."""
    session.processes.check_same(
        {
            "the target's fingerprint": session.target.fingerprint,
            "the target's dtype": session.target.dtype_name,
            "the hash of the training prompts": prompts_hash(session.prompts.train),
            "the number of steps": str(batches.steps),
            **{f"the version of {name}": version for name, version in versions().items() if name in _SAME},
        }
    )


def _batches(session: Session, draft: Draft, plan: CapturePlan, answers: Capture | None) -> BatchSource:
    """The batches of the recipe's mode, of selected tokens alone if the recipe says so."""
    recipe, run = session.recipe, session.run
    source = batch_source(
        Material(
            draft,
            session.target,
            [Query(prompt.id, ids) for prompt, ids in zip(plan.prompts, plan.prompt_ids, strict=True)],
            plan.signal,
            answers,
            recipe.train,
            recipe.capture,
            run.path,
            run.emit,
        )
    )
    reference = reference_draft(session.home, recipe, draft, session.target)
    return source if reference is None else SelectedBatches(source, draft.model, reference.model)


def _note_vocabulary(session: Session, answers: Capture, ids: torch.Tensor | None) -> None:
    """Note how much of what the target writes a trimmed draft can say at all, a bound on its acceptance."""
    if ids is None:
        return
    written = torch.cat([torch.tensor(answer.token_ids) for answer in answers.answers])
    known = float(torch.isin(written, ids.cpu()).double().mean())
    session.progress.note(f"draft vocabulary: {len(ids):,} ids, {known:.1%} of the tokens of the training answers")


def _watch(session: Session, captures: Mapping[float, Capture]) -> Callable[[Any], dict[float, float]]:
    """Exact acceptance on the watched prompts, of the draft in the precision it will be served in."""
    target, measure = session.target, session.recipe.measure
    ids, head = {prompt.id for prompt in session.prompts.watched}, Head.of(target.model)

    in_precision = _in_precision(target.dtype)

    def evaluate(model: Any) -> dict[float, float]:
        served = in_precision(model)
        if session.recipe.capture.server is not None:  # of greedy text, acceptance is agreement with it
            return {t: mean_agreement(text_agreement(served, capture)) for t, capture in captures.items()}
        acceptance = {}
        for temperature, capture in captures.items():
            sampling = Sampling(temperature, measure.top_k, measure.top_p)
            answers = [answer for answer in capture.answers if answer.prompt_id in ids]
            acceptance[temperature] = mean_overlap(exact_acceptance(served, head, capture, sampling, answers))
        return acceptance

    return evaluate


def _in_precision(dtype: torch.dtype) -> Callable[[Any], Any]:
    """A function that returns a model in training as it is served: itself, or one copy that gets its weights."""
    copies: list[Any] = []

    def served(model: Any) -> Any:
        if model.dtype == dtype:
            return model
        if copies:
            renew(copies[0], model)
        else:
            copies.append(copy_in(model, dtype).requires_grad_(False))
        return copies[0]

    return served


def _provenance(
    session: Session, answers: Capture | None, watched: Mapping[float, Capture], counts: dict[str, int]
) -> Provenance:
    recipe, target, prompts = session.recipe, session.target, session.prompts
    return provenance(
        target_fingerprint=target.fingerprint,
        target_dtype=target.dtype_name,
        target_quantize=target.weights,
        device=str(target.device),
        target_placed=target.placed or None,
        draft_device=None if target.draft_device == target.device else str(target.draft_device),
        supervision=recipe.train.supervision,
        seeds=Seeds(capture=recipe.capture.seed, train=recipe.train.seed, measure=recipe.measure.seed),
        prompts=PromptCounts(
            **prompts.counts, train_hash=prompts_hash(prompts.train), heldout_hash=prompts_hash(prompts.measured)
        ),
        captures={
            **({} if answers is None else {"training": answers.counts}),
            **{f"heldout T={t:g}": capture.counts for t, capture in watched.items()},
        },
        draft_parameters=DraftParameters(**counts),
        checkpoint_sha256=weights_hash(session.home, recipe.draft.checkpoint),
        reference_sha256=weights_hash(session.home, recipe.train.selection.reference),
    )
