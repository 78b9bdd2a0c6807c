"""Measuring a run's trained draft against the untrained one, on its held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.capture.plan import CapturePlan
from engine.capture.store import Capture
from engine.chat.prompt import prompts_hash
from engine.config.schema import Recipe
from engine.data.readers import read_prompts
from engine.data.subsets import distinct
from engine.fileio import read_json
from engine.measure.suite import Measured, Pair, measure_drafts
from engine.measure.target_alone import measure_target
from engine.models.context import refuse_beyond_draft, refuse_decoded_beyond
from engine.models.draft import Draft, load_draft, parameter_counts, trim
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.models.precision import cast
from engine.progress import Progress
from engine.records.provenance import DraftParameters, PromptCounts, Provenance, Seeds, ServedModel
from engine.records.summary import Summary
from engine.runs.drafts import draft_as_it_is, untrained_draft, weights_hash
from engine.runs.folder import RunFolder
from engine.runs.plan import decoded_texts, plan_heldout
from engine.runs.provenance import measured_by, provenance
from engine.runs.session import Session, capture_heldout
from engine.served.acceptance import measure_served
from engine.served.speed import measure_server


def measure(session: Session) -> Summary:
    """Measure the best draft against the untrained one; writes the tables and returns the summary.

    Of a run that trains nothing: its draft as it is, or the target alone.
    """
    if not session.recipe.trains:
        return _measure_as_it_is(session)
    recipe, target, folder = session.recipe, session.target, session.run.path
    plans = plan_heldout(session.home.captures, recipe, target, session.prompts)
    trained = load_draft(folder / "draft" / "best", target)
    _refuse_beyond_context(session, trained, plans)
    heldout = capture_heldout(plans, target, recipe.capture, session.progress)
    initial = _untrained(session, trained)
    served = Draft(cast(initial.model, target.dtype).requires_grad_(False), initial.info)
    compare = _against_server if recipe.measure.against == "server" else _against_model
    measured = compare(session, served, trained, heldout)
    measured.save(folder / "measure")
    _add_provenance(session, heldout)
    return measured.summary


def measure_served_alone(run: RunFolder, recipe: Recipe, progress: Progress) -> Summary:
    """Time a served model, of which nothing is here; writes the table and returns the summary."""
    server, spec = recipe.capture.server, recipe.prompts
    assert server is not None  # the schema asks for one
    heldout = read_prompts(spec.heldout, skip_bad=spec.skip_bad, stored=True)
    once = distinct(heldout.prompts)
    prompts = once[: recipe.measure.heldout_prompts]
    measured, left_out = measure_server(server, prompts, recipe.measure, progress=progress)
    for reason in left_out:
        progress.note(f"left out: {reason}")
    measured.save(run.path / "measure")
    counts = PromptCounts(
        measured=measured.summary.conditions.heldout_prompts,
        bad_rows=len(heldout.bad),
        beyond_heldout_prompts=len(once) - len(prompts),
        heldout_repeated=len(heldout.prompts) - len(once) or None,
        heldout_hash=prompts_hash(prompts),
    )
    seeds = Seeds(measure=recipe.measure.seed)
    provenance(seeds=seeds, prompts=counts, measurement=measured_by()).write(run.path)
    return measured.summary


def _refuse_beyond_context(session: Session, draft: Draft, plans: Mapping[float, CapturePlan]) -> None:
    """Refuse answers that do not fit, before they are captured, timed or certified."""
    refuse_beyond_draft(draft.model, [text for plan in plans.values() for text in plan.texts])
    again = decoded_texts(plans, session.prompts, session.recipe.measure)
    refuse_decoded_beyond(session.target.model, draft.model, again)


def _measure_as_it_is(session: Session) -> Summary:
    recipe, target = session.recipe, session.target
    heldout: dict[float, Capture] = {}
    draft: Draft | None = None
    if recipe.has_draft:
        draft = _as_it_is(session, target)
        plans = plan_heldout(session.home.captures, recipe, target, session.prompts)
        _refuse_beyond_context(session, draft, plans)
        heldout = capture_heldout(plans, target, recipe.capture, session.progress)
        exact = session.target_float32
        measured = measure_drafts(
            Pair(target, draft),
            None,
            Pair(exact, _as_it_is(session, exact)),
            heldout,
            session.prompts.measured,
            recipe.measure,
            progress=session.progress,
        )
    else:
        measured = measure_target(target, session.prompts.measured, recipe.measure, progress=session.progress)
    measured.save(session.run.path / "measure")
    _provenance_as_it_is(session, draft, heldout).write(session.run.path)
    return measured.summary


def _as_it_is(session: Session, target: LoadedModel) -> Draft:
    """The draft that nobody trains: the checkpoint as it came, or the first weights that the recipe makes."""
    recipe = session.recipe
    if recipe.draft.checkpoint is not None:
        return draft_as_it_is(session.home, recipe.draft.checkpoint, target)
    made = untrained_draft(session.home, recipe, target)
    return Draft(cast(made.model, target.dtype).requires_grad_(False), made.info)


def _provenance_as_it_is(session: Session, draft: Draft | None, heldout: Mapping[float, Capture]) -> Provenance:
    recipe, target, prompts = session.recipe, session.target, session.prompts
    checkpoint = weights_hash(session.home, recipe.draft.checkpoint)
    counts = None if draft is None else {**parameter_counts(draft), "trained": 0}
    return provenance(
        target_fingerprint=target.fingerprint,
        target_dtype=target.dtype_name,
        target_quantize=target.weights,
        device=str(target.device),
        target_placed=target.placed or None,
        seeds=Seeds(measure=recipe.measure.seed),
        prompts=PromptCounts.model_validate({**prompts.counts, "heldout_hash": prompts_hash(prompts.measured)}),
        captures={f"heldout T={t:g}": capture.counts for t, capture in heldout.items()},
        draft_parameters=None if counts is None else DraftParameters(**counts),
        checkpoint_sha256=checkpoint,
        measurement=measured_by(
            draft_sha256=checkpoint, captures={f"heldout T={t:g}": c.address for t, c in heldout.items()}
        ),
    )


def _untrained(session: Session, trained: Draft) -> Draft:
    """The draft that the trained one is compared with.

    A checkpoint as it came, since that is what a user would serve untrained; else the draft's own first weights with
    the ids it was trained with.
    """
    draft = untrained_draft(session.home, session.recipe, session.target, begun=True)
    ids = Head.of(trained.model).ids
    return draft if ids is None or session.recipe.draft.init == "checkpoint" else trim(draft, session.target, ids)


def _against_model(session: Session, initial: Draft, trained: Draft, heldout: Mapping[float, Capture]) -> Measured:
    exact = session.target_float32
    measured = measure_drafts(
        Pair(session.target, trained),
        initial,
        Pair(exact, load_draft(session.run.path / "draft" / "best", exact)),
        heldout,
        session.prompts.measured,
        session.recipe.measure,
        progress=session.progress,
    )
    server = session.recipe.capture.server
    if server is not None:
        session.progress.note(
            f"measured against {session.recipe.target.label}, the model at hand: the draft learnt from {server.model} "
            f"at {server.base_url}, which would accept other tokens unless the two are the same"
        )
        replaced = {"stands_in_for": ServedModel(base_url=server.base_url, model=server.model)}
        return replace(measured, summary=measured.summary.model_copy(update=replaced))
    return measured


def _against_server(session: Session, initial: Draft, trained: Draft, heldout: Mapping[float, Capture]) -> Measured:
    prompts, server = session.prompts.measured, session.recipe.capture.server
    assert server is not None  # the schema asks for one
    measured = measure_served(
        session.target,
        {"initial": initial, "trained": trained},
        heldout,
        [prompt.id for prompt in prompts],
        session.recipe.measure,
        server,
        heldout_hash=prompts_hash(prompts),
        texts={prompt.id: prompt.text for prompt in prompts},
        progress=session.progress,
    )
    session.progress.note(
        f"measured against the text of {server.model} at {server.base_url}: acceptance alone, since the sampled "
        "rates, tau, speed and the certificate need the target to run here"
    )
    return measured


def _add_provenance(session: Session, heldout: Mapping[float, Capture]) -> None:
    """Record what was measured: a draft may be measured long after it was trained, by another version."""
    run = session.run
    measurement = measured_by(
        draft_sha256=read_json(run.path / "draft" / "best" / "draft.json")["weights_sha256"],
        captures={f"heldout T={t:g}": c.address for t, c in heldout.items()},
        stands_in_for=run.summary().stands_in_for,
    )
    origin = Provenance.read(run.path) or Provenance()
    origin.model_copy(update={"measurement": measurement}).write(run.path)
