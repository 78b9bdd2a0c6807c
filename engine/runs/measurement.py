"""Measuring a run's trained draft against the untrained one, on its held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.capture.store import Capture
from engine.chat.prompt import prompts_hash
from engine.fileio import read_json
from engine.measure.suite import Measured, Pair, measure_drafts
from engine.models.draft import Draft, load_draft, trim
from engine.models.head import Head
from engine.models.precision import cast
from engine.records.provenance import Provenance, ServedModel
from engine.records.summary import Summary
from engine.runs.drafts import untrained_draft
from engine.runs.plan import plan_heldout
from engine.runs.provenance import measured_by
from engine.runs.session import Session, capture_heldout
from engine.served.acceptance import measure_served


def measure(session: Session) -> Summary:
    """Measure the best draft against the untrained one; writes the tables and returns the summary."""
    recipe, target, folder = session.recipe, session.target, session.run.path
    plans = plan_heldout(session.home.captures, recipe, target, session.prompts)
    heldout = capture_heldout(plans, target, recipe.capture, session.progress)
    trained = load_draft(folder / "draft" / "best", target)
    initial = _untrained(session, trained)
    served = Draft(cast(initial.model, target.dtype).requires_grad_(False), initial.info)
    compare = _against_server if recipe.measure.against == "server" else _against_model
    measured = compare(session, served, trained, heldout)
    measured.save(folder / "measure")
    _add_provenance(session, heldout)
    return measured.summary


def _untrained(session: Session, trained: Draft) -> Draft:
    """The draft that the trained one is compared with.

    A checkpoint as it came, since that is what a user would serve untrained; else the draft's own first weights with
    the ids it was trained with.
    """
    draft, ids = untrained_draft(session.home, session.recipe, session.target), Head.of(trained.model).ids
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
