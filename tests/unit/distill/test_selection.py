"""Token selection: which positions are kept, and what is learnt from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.batches import Batch
from engine.capture.store import Capture
from engine.config.schema import CaptureSpec, DraftSpec, LossTerm, OnPolicySpec, SelectionSpec, TrainSpec
from engine.distill.chunked import Positions, chunked_loss, position_losses
from engine.distill.losses import LOSSES
from engine.distill.modes.offline import OfflineBatches
from engine.distill.modes.on_policy import OnPolicyBatches
from engine.distill.selection import SelectedBatches, check_reference, largest, load_reference
from engine.distill.source import BatchSource
from engine.distill.trainer import Trainer
from engine.errors import DraftbenchError
from engine.fileio import sha256_file
from engine.models.draft import Draft, initialise_draft, save_draft, trim
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel
from engine.progress import Progress
from tests.conftest import tiny_llama
from tests.tiny_pair import draft_of, loaded
from tests.unit.distill.trainings import PowerCut

pytestmark = pytest.mark.slow

STEPS = 6
IDS = torch.arange(2, 222, 2)
OTHER_IDS = IDS + 1


def settings(share: float = 0.4, loss: Any = "forward_kl", **changes: Any) -> TrainSpec:
    return TrainSpec(
        **{
            "selection": SelectionSpec(share=share, reference=None if share == 1 else "somewhere"),
            "loss": loss,
            "batch_size": 6,
            "epochs": 99,
            "max_steps": STEPS,
            "learning_rate": 0.01,
            "precision": "float32",
            "eval_every": 2,
            "checkpoint_every": 2,
            **changes,
        }
    )


def reference_of(target: LoadedModel) -> Any:
    """Another draft, better at some tokens and worse at others."""
    return initialise_draft(target, DraftSpec(layers=[0, 2, 3]), seed=0).model


def offline(target: LoadedModel, capture: Capture, spec: TrainSpec, draft: Draft) -> OfflineBatches:
    return OfflineBatches(capture, spec, Head.of(target.model), target.device, Head.of(draft.model).ids)


def selected_in(
    folder: Path, target: LoadedModel, capture: Capture, spec: TrainSpec, reference: Any = None, **more: Any
) -> Trainer:
    draft = more.pop("draft", None) or draft_of(target)
    inner: BatchSource = offline(target, capture, spec, draft)
    source = SelectedBatches(inner, draft.model, reference or reference_of(target))
    return Trainer(draft, source, spec, folder, **more)


def divergence(model: Any, batch: Batch, head: Head) -> torch.Tensor:
    """KL(p || q) at each response position, the plain way: [position]."""
    log_p = torch.log_softmax(head.logits(batch.raw_signal.contiguous().view(torch.bfloat16)).float(), -1)
    log_q = torch.log_softmax(model(input_ids=batch.ids, attention_mask=batch.mask).logits[batch.responds], -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


# ---- which positions ------------------------------------------------------------------------


def test_the_largest_gaps_are_kept_of_equal_ones_the_earlier():
    gaps = torch.tensor([0.5, -1.0, 2.0, 0.5, 0.1])
    assert largest(gaps, 0.4).tolist() == [True, False, True, False, False]
    assert largest(gaps, 0.01).tolist() == [False, False, True, False, False]
    assert largest(gaps, 1.0).all()
    assert int(largest(torch.zeros(5), 0.5).sum()) == 3  # a half is rounded up


@pytest.mark.parametrize("most", [1, 60, 10_000], ids=["a row a batch", "some rows", "one batch"])
def test_the_share_is_of_the_whole_step_whatever_the_micro_batches(tmp_path, target, capture, most: int):
    made = selected_in(tmp_path, target, capture, settings(micro_batch_tokens=most))
    draft, reference = made.draft.model, made.source.reference_model
    whole = made.source.source.micro_batches(0)
    head = Head.of(target.model)
    with torch.no_grad():
        gaps = torch.cat([divergence(draft, b, head) - divergence(reference, b, head) for b in whole])
    count = math.floor(0.4 * len(gaps) + 0.5)
    limit = gaps.sort(descending=True).values[count - 1]
    places = torch.cat([b.places for b in whole])[gaps >= limit]
    kept = made.source.micro_batches(0)
    assert sorted(torch.cat([b.places for b in kept]).tolist()) == sorted(places.tolist())
    assert len(places) == count
    assert all(b.tokens for b in kept)


def test_the_gradient_is_that_of_the_kept_positions_divided_by_their_number(tmp_path, target, capture):
    made = selected_in(tmp_path, target, capture, settings(micro_batch_tokens=60))
    model, reference, head = made.draft.model, made.source.reference_model, Head.of(target.model)
    (whole,) = selected_in(tmp_path, target, capture, settings(micro_batch_tokens=9999)).source.source.micro_batches(0)
    losses = divergence(model, whole, head)
    gaps = (losses - divergence(reference, whole, head)).detach()
    chosen = gaps.topk(math.floor(0.4 * len(gaps) + 0.5)).indices
    learning = [p for p in model.parameters() if p.requires_grad]
    expected = [g for g in torch.autograd.grad(losses[chosen].mean(), learning, allow_unused=True) if g is not None]

    found: list[torch.Tensor] = []
    made.clip = lambda: found.extend(p.grad.clone() for p in made.trained if p.grad is not None) or torch.ones(())
    events: list[dict[str, Any]] = []
    made.emit = lambda event: events.append(event.document())
    made._step(0)
    assert events[0]["loss"] == pytest.approx(float(losses[chosen].detach().mean()), rel=1e-4)
    assert events[0]["positions"] == len(chosen)
    assert made.outcome.tokens_seen == len(gaps)  # the target wrote them all
    assert made.outcome.positions_trained == len(chosen)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-6)


def test_share_1_leaves_everything_as_it_is(tmp_path, target, capture):
    spec = settings(1.0)
    made = selected_in(tmp_path / "selected", target, capture, spec)
    made.run()
    draft = draft_of(target)
    Trainer(draft, offline(target, capture, spec, draft), spec, tmp_path / "plain").run()
    assert len({sha256_file(tmp_path / n / "draft/last/draft.safetensors") for n in ("selected", "plain")}) == 1


def test_a_reference_that_is_the_draft_leaves_no_gap(tmp_path, target, capture):
    draft = draft_of(target)
    made = selected_in(tmp_path, target, capture, settings(), draft.model, draft=draft)
    assert not made.source.gap(made.source.source.micro_batches(0)[0]).any()
    assert sum(b.tokens for b in made.source.micro_batches(0)) > 0


def test_a_reference_equal_to_the_target_selects_the_largest_losses(tmp_path, target, capture):
    made = selected_in(tmp_path, target, capture, settings(micro_batch_tokens=9999), target.model)
    (batch,) = made.source.source.micro_batches(0)
    with torch.no_grad():
        losses = divergence(made.draft.model, batch, Head.of(target.model))
    torch.testing.assert_close(made.source.gap(batch), losses, rtol=0, atol=2e-2)  # its stored state is rounded
    kept = made.source.micro_batches(0)
    with torch.no_grad():
        chosen = torch.cat([divergence(made.draft.model, b, Head.of(target.model)) for b in kept])
    assert float(chosen.mean()) > float(losses.mean())


def test_the_reference_is_never_changed_and_nothing_is_left_in_the_draft(tmp_path, target, capture):
    made = selected_in(tmp_path, target, capture, settings())
    before = [p.detach().clone() for p in made.source.reference_model.parameters()]
    made.source.micro_batches(0)
    assert all(p.grad is None for p in made.draft.model.parameters())
    made.run()
    assert all(torch.equal(a, b) for a, b in zip(before, made.source.reference_model.parameters(), strict=True))


# ---- the value of a loss at each position -----------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"tvd_pp"}))
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_the_losses_of_positions_add_up_to_the_loss_that_is_trained(target, capture, name: str, chunk: int | None):
    draft, spec = draft_of(target), settings()
    source = offline(target, capture, spec, draft)
    (batch, *_) = source.micro_batches(0)
    terms = [LossTerm(name=name, weight=0.5), LossTerm(name="tvd")]
    weights = torch.rand(batch.tokens, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = hidden_states(draft.model, batch.ids, batch.mask)[batch.responds]
    positions = Positions(
        batch.token_ids, torch.zeros(batch.tokens), lambda part: source.read_signal(batch, part), weights
    )
    values = position_losses(hidden, Head.of(draft.model), positions, terms, chunk=chunk)
    assert values.shape == (batch.tokens,)
    assert not values.requires_grad
    total = chunked_loss(hidden, Head.of(draft.model), positions, terms, chunk=chunk)
    assert float(values.sum()) == pytest.approx(float(total), rel=1e-5)


def test_where_a_loss_has_only_a_gradient_the_one_it_estimates_is_compared(tmp_path, target, capture):
    surrogate, plain = (
        selected_in(tmp_path, target, capture, settings(loss=name)).source.micro_batches(0)
        for name in ("tvd_pp", "tvd")
    )
    assert [b.places.tolist() for b in surrogate] == [b.places.tolist() for b in plain]


# ---- references -----------------------------------------------------------------------------


def test_a_trimmed_reference_may_have_the_drafts_ids_in_another_order(tmp_path, target, capture):
    draft = trim(draft_of(target), target, IDS)
    straight, turned = (
        trim(Draft(reference_of(target), draft_of(target).info), target, ids) for ids in (IDS, IDS.flip(0))
    )
    found = [
        selected_in(tmp_path, target, capture, settings(), reference.model, draft=draft).source.micro_batches(0)
        for reference in (straight, turned)
    ]
    assert [b.places.tolist() for b in found[0]] == [b.places.tolist() for b in found[1]]
    made = selected_in(tmp_path, target, capture, settings(), turned.model, draft=draft)
    assert made.run().steps_done == STEPS


@pytest.mark.parametrize("mine", [None, IDS, OTHER_IDS], ids=["all", "even", "odd"])
def test_a_reference_of_other_ids_is_refused(target, mine: torch.Tensor | None):
    def made(ids: torch.Tensor | None) -> Any:
        return draft_of(target).model if ids is None else trim(draft_of(target), target, ids).model

    others = [ids for ids in (None, IDS, OTHER_IDS) if ids is not mine]
    check_reference(made(mine), made(mine))
    for ids in others:
        with pytest.raises(DraftbenchError, match=r"the reference of train\.selection"):
            check_reference(made(mine), made(ids))


def test_a_reference_is_loaded_to_be_read_only(tmp_path, target):
    draft = draft_of(target)
    save_draft(tmp_path / "reference", draft)
    found = load_reference(tmp_path / "reference", draft, target)
    assert not any(p.requires_grad for p in found.model.parameters())
    assert not found.model.training
    with pytest.raises(DraftbenchError, match="the draft proposes 110 ids"):
        load_reference(tmp_path / "reference", trim(draft_of(target), target, IDS), target)
    stranger = loaded(tiny_llama(seed=4), "another")
    with pytest.raises(DraftbenchError, match="another target"):
        load_reference(tmp_path / "reference", draft_of(stranger), stranger)


# ---- over other modes, other precisions, and broken off -----------------------------------------


@pytest.mark.parametrize("form", ["sampled", "assisted"])
def test_it_selects_from_on_policy_batches_too(tmp_path, target, capture, form: str):
    spec = settings(mode="on_policy", on_policy=OnPolicySpec(form=form, share=0.5))
    draft = draft_of(target)
    inner = OnPolicyBatches(draft.model, target, capture, spec, CaptureSpec(max_new_tokens=12))
    source = SelectedBatches(inner, draft.model, reference_of(target))
    assert list(source.terms) == list(inner.terms)
    outcome = Trainer(draft, source, spec, tmp_path).run()
    assert outcome.steps_done == STEPS
    assert outcome.positions_trained == pytest.approx(0.4 * outcome.tokens_seen, rel=0.02)


def test_a_step_with_nothing_to_learn_from_stays_empty(target, capture):
    class Nothing(OfflineBatches):
        def micro_batches(self, step: int) -> list[Batch]:
            return []

    draft, spec = draft_of(target), settings()
    inner = Nothing(capture, spec, Head.of(target.model), target.device)
    assert list(SelectedBatches(inner, draft.model, reference_of(target)).micro_batches(0)) == []


def test_what_the_wrapped_source_keeps_in_a_checkpoint_is_kept(target, capture):
    kept: dict[str, torch.Tensor] = {}

    class Remembers(OfflineBatches):
        def state(self) -> dict[str, torch.Tensor]:
            return {"w": torch.ones(1)}

        def restore(self, state: dict[str, torch.Tensor]) -> None:
            kept.update(state)

    draft, spec = draft_of(target), settings()
    inner = Remembers(capture, spec, Head.of(target.model), target.device)
    source = SelectedBatches(inner, draft.model, reference_of(target))
    source.restore(source.state())
    assert kept == {"w": torch.ones(1)}


def test_both_losses_are_taken_in_the_precision_of_training(target, capture):
    draft, spec = draft_of(target), settings(precision="bfloat16")
    source = SelectedBatches(offline(target, capture, spec, draft), draft.model, draft.model)
    assert not source.gap(source.source.micro_batches(0)[0]).any()
    assert source.dtype == torch.bfloat16


def test_a_run_broken_off_ends_with_the_same_weights(tmp_path, target, capture):
    selected_in(tmp_path / "whole", target, capture, settings()).run()

    def listen(told: dict[str, Any]) -> None:
        if told["done"] == 5:
            raise PowerCut

    with pytest.raises(PowerCut):
        selected_in(tmp_path / "cut", target, capture, settings(), progress=Progress(quiet=True, listen=listen)).run()
    selected_in(tmp_path / "cut", target, capture, settings()).run()
    assert len({sha256_file(tmp_path / n / "draft/last/draft.safetensors") for n in ("whole", "cut")}) == 1
