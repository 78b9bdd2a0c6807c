"""The trainer: exact accumulation, no leak from padding, the precision of its weights, losses read seldom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.capture.batches import Batch, collate
from engine.capture.store import Capture
from engine.catalogue import LOSSES as LOSS_CARDS
from engine.decode.sampling import Sampling
from engine.distill import trainer
from engine.distill.losses import LOSSES
from engine.distill.modes.offline import OfflineBatches
from engine.distill.schedule import learning_rate
from engine.distill.source import Ahead
from engine.distill.trainer import Trainer
from engine.errors import DraftbenchError
from engine.measure.acceptance import exact_acceptance
from engine.models.draft import Draft, load_draft, trim
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel
from engine.models.precision import copy_in
from engine.progress import Progress
from tests.conftest import tiny_llama
from tests.tiny_families import random_model, small_config
from tests.tiny_pair import as_draft, captured, draft_of, into, loaded
from tests.unit.distill.trainings import STEPS, Poisoned, PowerCut, fingerprint, settings, step_gradients, trainer_in

pytestmark = pytest.mark.slow

DIVERGENCES = [name for name in LOSSES if name not in ("sft", "argmax_ce")]  # those that are zero at q = p alone


@pytest.fixture(scope="module")
def text_capture(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel) -> Capture:
    return captured(tmp_path_factory.mktemp("text"), target, signal="none")


# ---- one optimiser step ---------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_add_up_to_the_same_gradient(tmp_path, target, capture, name: str, share: bool):
    """One answer a forward pass, two, or all at once: the memory changes, the step does not."""
    results = []
    for most in (1, 60, 10_000):
        spec = settings(batch_size=6, loss=name, micro_batch_tokens=most)
        made = trainer_in(tmp_path, target, capture, spec, draft=draft_of(target, share_embeddings=share))
        results.append((len(made.source.micro_batches(0)), *step_gradients(made)))
    counts = [count for count, _, _ in results]
    assert counts[0] == 6 > counts[1] > counts[2] == 1
    for _, loss, gradients in results[:-1]:
        assert loss == pytest.approx(results[-1][1], rel=1e-5, abs=1e-6)
        for mine, theirs in zip(gradients, results[-1][2], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_a_step_is_normalised_by_the_answers_tokens(tmp_path, target, capture):
    """The loss of a step is the mean over all its response tokens, long answers counting for more."""
    made = trainer_in(tmp_path, target, capture, settings(batch_size=6, micro_batch_tokens=1))
    total = tokens = 0.0
    for answer in capture.answers:
        ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids]])
        with torch.no_grad():
            draft_logits = made.draft.model(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1]
        signal = capture.format.decode(capture.raw_signal(answer), Head.of(target.model))
        log_p, log_q = signal.align(draft_logits, 1.0)
        total += float((log_p.exp() * (log_p - log_q)).sum())
        tokens += len(answer.token_ids)
    loss, _ = step_gradients(made)
    assert loss == pytest.approx(total / tokens, rel=1e-4)
    assert made.outcome.tokens_seen == tokens


@pytest.mark.parametrize("name", ["forward_kl", "tvd_pp", "sft"])
def test_padding_leaks_into_nothing(tmp_path, target, capture, name: str):
    """Loss and gradient of a padded batch are the sums over its sequences alone."""
    made = trainer_in(tmp_path, target, capture, settings(loss=name))

    def backward(batches: Sequence[Batch]) -> tuple[float, list[torch.Tensor]]:
        made.optimiser.zero_grad(set_to_none=True)
        loss = sum(float(made.backward(batch, 0, 1, (0.5, 0.5))) for batch in batches)
        return loss, [p.grad.clone() for p in made.trained if p.grad is not None]

    padded = collate(capture, capture.answers, target.device)
    assert (padded.mask == 0).any()
    together = backward([padded])
    alone = backward([collate(capture, [answer], target.device) for answer in capture.answers])
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    for mine, theirs in zip(together[1], alone[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter(tmp_path, target, capture):
    made = trainer_in(tmp_path, target, capture)
    batch = collate(capture, capture.answers, target.device)
    noisy = replace(batch, ids=torch.where(batch.mask.bool(), batch.ids, torch.full_like(batch.ids, 77)))
    assert made.backward(batch, 0, 1) == made.backward(noisy, 0, 1)


PADDED: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]], "window_size": 8},
    "opt": {},
    "bloom": {},
    "mixtral": {},
    "qwen3_next": {},
    "mamba": {},
}


@pytest.mark.parametrize("kind", PADDED)
def test_padding_on_the_right_needs_no_mask(kind: str):
    """Windows, absolute and relative positions, experts and recurrences: none reads what stands after a position."""
    model = random_model(small_config(kind, **PADDED[kind]))
    ids = torch.randint(2, 250, (3, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 15:], mask[2, 4:] = 0, 0
    with torch.no_grad():
        masked, open_ = (hidden_states(model, ids, m, is_draft=True) for m in (mask, None))
    torch.testing.assert_close(open_[mask.bool()], masked[mask.bool()], rtol=1e-4, atol=1e-5)


def test_nothing_is_drawn_where_no_loss_draws(tmp_path, target, capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trainer, "Uniforms", None)
    assert LOSS_CARDS["tvd_pp"].samples
    trainer_in(tmp_path, target, capture, settings(loss=["forward_kl", "sft"])).run()
    with pytest.raises(TypeError):
        trainer_in(tmp_path / "drawn", target, capture, settings(loss=["forward_kl", "tvd_pp"])).run()


def test_the_same_answer_gets_the_same_draws_whatever_stands_beside_it(tmp_path, target, capture):
    made = trainer_in(tmp_path, target, capture, settings(loss="tvd_pp"))
    whole = made._positions(collate(capture, capture.answers, target.device), 3).uniforms
    parts = [made._positions(collate(capture, [answer], target.device), 3).uniforms for answer in capture.answers]
    assert torch.equal(whole, torch.cat(parts))
    assert len(set(whole.tolist())) == len(whole)
    other_step = made._positions(collate(capture, capture.answers, target.device), 4).uniforms
    seeded = trainer_in(tmp_path, target, capture, settings(loss="tvd_pp", seed=1))
    other_seed = seeded._positions(collate(capture, capture.answers, target.device), 3).uniforms
    assert not (whole == other_step).any()
    assert not (whole == other_seed).any()


def test_clipping_and_rate_are_those_of_the_recipe(tmp_path, target, capture):
    """With plain SGD in AdamW's place a step moves the weights by rate x clipped gradient."""
    spec = settings(max_grad_norm=0.01, warmup_fraction=0.0, schedule="constant")
    made = trainer_in(tmp_path, target, capture, spec)
    made.optimiser = torch.optim.SGD(made.trained, lr=123.0, fused=True)
    before = [p.detach().clone() for p in made.trained]
    made._step(0)
    moved = math.sqrt(sum(float((a - b.detach()).square().sum()) for a, b in zip(before, made.trained, strict=True)))
    assert moved == pytest.approx(0.01 * spec.learning_rate, rel=1e-3)


def test_only_what_is_marked_learns(tmp_path, target, capture):
    theirs = {name: t.clone() for name, t in target.model.state_dict().items()}
    made = trainer_in(tmp_path, target, capture)
    made.run()
    assert all(torch.equal(t, theirs[name]) for name, t in target.model.state_dict().items())
    mine = made.draft.model.get_input_embeddings().weight
    assert torch.equal(mine, target.model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "exact") for name in DIVERGENCES), ("forward_kl", "compact"), ("tvd", "compact")],
)
def test_training_brings_the_draft_nearer_to_its_target(
    tmp_path, target, capture, compact_capture, name: str, kind: str
):
    """Every divergence lowers the total variation to the target on the text it learns."""
    spec = settings(loss=name, batch_size=6, max_steps=30, checkpoint_every=1000)
    made = trainer_in(tmp_path, target, {"exact": capture, "compact": compact_capture}[kind], spec, evaluate=None)
    before = distance(made.draft, target, capture)
    made.run()
    assert distance(made.draft, target, capture) < 0.9 * before


def test_black_box_training_makes_the_targets_text_likelier_and_reads_no_signal(tmp_path, target, text_capture):
    spec = settings(loss="sft", batch_size=6, max_steps=30)
    events: list[dict[str, Any]] = []
    made = Trainer(
        draft_of(target),
        OfflineBatches(text_capture, spec, None, target.device),
        spec,
        tmp_path,
        emit=into(events),
    )
    assert made.run().steps_done == 30
    assert events[-1]["loss"] < 0.5 * events[0]["loss"]


def test_cross_entropy_to_the_argmax_raises_what_argmax_proposals_are_accepted_for(tmp_path, target, capture):
    made = trainer_in(tmp_path, target, capture, settings(loss="argmax_ce", batch_size=6, max_steps=30), evaluate=None)
    before = argmax_acceptance(made.draft, target, capture)
    made.run()
    assert argmax_acceptance(made.draft, target, capture) > 4 * before


def argmax_acceptance(draft: Draft, target: LoadedModel, capture: Capture) -> float:
    """Mean of p(argmax q) on the captured text."""
    results = exact_acceptance(draft.model, Head.of(target.model), capture, Sampling(1.0))
    return float(torch.cat([result.argmax_prob for result in results]).mean())


def distance(draft: Draft, target: LoadedModel, capture: Capture) -> float:
    """Mean total variation between draft and target on the captured text."""
    batch = collate(capture, capture.answers, target.device)
    with torch.no_grad():
        mine, theirs = (
            torch.softmax(m(input_ids=batch.ids, attention_mask=batch.mask).logits[batch.responds], -1)
            for m in (draft.model, target.model)
        )
    return float((mine - theirs).abs().sum(-1).mean() / 2)


def test_a_distillation_temperature_reaches_the_loss(tmp_path, target, capture):
    losses = [
        step_gradients(trainer_in(tmp_path, target, capture, settings(distill_temperature=t, batch_size=6)))[0]
        for t in (1.0, 4.0)
    ]
    assert losses[1] < losses[0] / 4


# ---- a whole run ----------------------------------------------------------------------------


def test_steps_asked_for_are_steps_done(tmp_path, target, capture):
    events: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    made = trainer_in(
        tmp_path,
        target,
        capture,
        emit=into(events),
        progress=Progress(quiet=True, listen=told.append),
    )
    outcome = made.run()
    train = [e for e in events if e["kind"] == "train"]
    assert outcome.steps == outcome.steps_done == STEPS == len(train)
    assert [e["step"] for e in train] == list(range(1, STEPS + 1))
    assert [e["learning_rate"] for e in train] == [learning_rate(s, STEPS, settings()) for s in range(STEPS)]
    tokens = [sum(b.tokens for b in made.source.micro_batches(s)) for s in range(STEPS)]
    assert [e["tokens_seen"] for e in train] == [sum(tokens[: i + 1]) for i in range(STEPS)]
    assert (told[-1]["done"], told[-1]["total"]) == (STEPS, STEPS)


def test_evaluation_is_made_before_the_first_step_on_the_way_and_at_the_end(tmp_path, target, capture):
    events: list[dict[str, Any]] = []
    trainer_in(tmp_path, target, capture, emit=into(events)).run()
    evaluations = [(e["step"], e["temperature"]) for e in events if e["kind"] == "eval"]
    assert evaluations == [(step, t) for step in (0, 2, 4, 6, 7) for t in (0.0, 1.0)]


def test_the_best_and_the_last_draft_are_kept(tmp_path, target, capture):
    """The best is the one with the highest mean over temperatures; on a tie the earlier."""
    values = iter([(0.1, 0.1), (0.3, 0.5), (0.9, 0.0), (0.4, 0.4), (0.2, 0.2)])  # steps 0, 2, 4, 6, 7
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate(model: Any) -> dict[float, float]:
        seen[made.outcome.steps_done] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return dict(zip((0.0, 1.0), next(values), strict=True))

    made = trainer_in(tmp_path, target, capture, evaluate=evaluate)
    outcome = made.run()
    assert (outcome.best_step, outcome.best_exact) == (4, 0.45)
    assert outcome.first_exact == {"0.0": 0.1, "1.0": 0.1}
    for which, step in (("best", 4), ("last", STEPS)):
        kept = load_draft(tmp_path / "draft" / which, target)
        assert all(torch.equal(p, seen[step][n]) for n, p in kept.model.named_parameters())


def test_a_tie_keeps_the_earlier_draft(tmp_path, target, capture):
    assert trainer_in(tmp_path, target, capture, evaluate=lambda _: {1.0: 0.5}).run().best_step == 0


def test_only_the_newest_checkpoint_is_kept(tmp_path, target, capture):
    trainer_in(tmp_path, target, capture).run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]


@pytest.mark.parametrize("name", ["sft", "forward_kl", "tvd"])
def test_a_draft_with_fewer_rows_learns_from_text_that_it_cannot_wholly_read(tmp_path, name: str):
    """A target with padding rows writes ids that a draft of the same tokenizer has no row for."""
    padded = loaded(tiny_llama(vocab=320, seed=2))
    text = captured(tmp_path, padded, max_new_tokens=24)
    assert max(i for answer in text.answers for i in answer.token_ids) >= 258
    draft = as_draft(tiny_llama(layers=2).requires_grad_(True))
    told: list[dict[str, Any]] = []
    trainer_in(tmp_path, padded, text, settings(loss=name), draft=draft, emit=into(told)).run()
    losses = [event["loss"] for event in told if event["kind"] == "train"]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]


# ---- half precision --------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"share_embeddings": False}], ids=["frozen head", "trained head"])
def test_half_precision_trains_float32_weights_in_a_rounded_copy(tmp_path, target, capture, changes: dict[str, Any]):
    spec = settings(precision="bfloat16", batch_size=6)
    made = trainer_in(tmp_path, target, capture, spec, draft=draft_of(target, **changes))
    exact = trainer_in(tmp_path / "exact", target, capture, settings(batch_size=6), draft=draft_of(target, **changes))
    for mine, theirs in zip(step_gradients(made)[1], step_gradients(exact)[1], strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - theirs).norm()) < 0.05 * float(theirs.norm()) + 1e-5
    masters, copies = dict(made.draft.model.named_parameters()), dict(made.model.named_parameters())
    assert masters.keys() == copies.keys()
    for name, copied in copies.items():
        assert (copied.dtype, masters[name].dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(copied, masters[name].bfloat16()), name
        assert copied.grad is None


def test_the_copy_computes_what_the_draft_will_compute_when_it_is_served(tmp_path, target, capture):
    """Not what a cast model would: a cast rounds the rotary frequencies too."""
    made = trainer_in(tmp_path, target, capture, settings(precision="bfloat16"))
    made.run()
    served = load_draft(tmp_path / "draft" / "last", target, dtype=torch.bfloat16).model
    ids = torch.randint(258, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = (hidden_states(model, ids, is_draft=True) for model in (made.model, served))
    assert torch.equal(mine, theirs)


def test_a_run_in_half_precision_that_is_broken_off_ends_with_the_same_weights(tmp_path, target, capture):
    spec = settings(precision="bfloat16")
    whole = fingerprint(tmp_path / "whole", trainer_in(tmp_path / "whole", target, capture, spec).run())

    def listen(told: dict[str, Any]) -> None:
        if told["done"] == 5:
            raise PowerCut

    with pytest.raises(PowerCut):
        trainer_in(tmp_path, target, capture, spec, progress=Progress(quiet=True, listen=listen)).run()
    assert fingerprint(tmp_path, trainer_in(tmp_path, target, capture, spec).run()) == whole


@pytest.mark.parametrize("trimmed", [False, True], ids=["all ids", "trimmed vocabulary"])
def test_a_copy_in_another_dtype_says_the_same(target, trimmed: bool):
    draft = draft_of(target, share_embeddings=trimmed)
    if trimmed:
        draft = trim(draft, target, torch.arange(3, 90))
    copied = copy_in(draft.model, torch.float32)
    ids = torch.randint(258, (2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(copied(input_ids=ids).logits, draft.model(input_ids=ids).logits)
    marks = [{n: p.requires_grad for n, p in model.named_parameters()} for model in (copied, draft.model)]
    assert marks[0] == marks[1]
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in draft.model.parameters()}


# ---- as on a GPU: losses read every few steps, batches made ahead ----------------------------


def test_reading_losses_seldom_changes_no_weight_and_no_event(tmp_path, target, capture, unbroken):
    runs: list[list[dict[str, Any]]] = []
    for every in (1, 4):
        events: list[dict[str, Any]] = []
        made = trainer_in(tmp_path / str(every), target, capture, emit=into(events))
        made.read_every = every
        assert fingerprint(tmp_path / str(every), made.run()) == unbroken
        runs.append([{k: v for k, v in event.items() if k not in ("seconds", "at")} for event in events])
    assert runs[0] == runs[1]


def test_losses_are_read_before_anything_is_kept_or_evaluated(tmp_path, target, capture):
    """A kill after a checkpoint must not lose the events of the steps that it holds."""
    told: list[int] = []
    made = trainer_in(tmp_path, target, capture, settings(eval_every=5, checkpoint_every=3))
    made.read_every = 99
    made.progress = Progress(quiet=True, listen=lambda state: told.append(state["done"]))
    seen: list[tuple[int, int]] = []
    keep, evaluate = made._checkpoint, made._evaluate
    made._checkpoint = lambda: (seen.append((made.outcome.steps_done, told[-1])), keep())
    made._evaluate = lambda: (seen.append((made.outcome.steps_done, told[-1] if told else 0)), evaluate())
    made.run()
    assert seen == [(step, step) for step in (0, 3, 5, 6, STEPS, STEPS)]


def test_a_diverged_step_that_is_read_late_was_not_applied_nor_any_after_it(tmp_path, target, capture):
    spec = settings(eval_every=99, checkpoint_every=99)
    good = trainer_in(tmp_path / "good", target, capture, spec)
    for step in range(4):
        good._step(step)
    events: list[dict[str, Any]] = []
    made = trainer_in(tmp_path / "bad", target, capture, spec, source=Poisoned, emit=into(events))
    made.read_every = 99
    with pytest.raises(DraftbenchError, match="step 5: the loss is nan"):
        made.run()
    assert [e["step"] for e in events if e["kind"] == "train"] == [1, 2, 3, 4]
    assert made.outcome.steps_done == 4
    assert all(torch.equal(a, b) for a, b in zip(good.trained, made.trained, strict=True))
    moments = [[opt.state[p] for p in t.trained] for t, opt in ((good, good.optimiser), (made, made.optimiser))]
    for mine, theirs in zip(*moments, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_batches_made_ahead_are_the_same_in_their_order(target, capture):
    source = OfflineBatches(capture, settings(), Head.of(target.model), target.device)
    ahead = Ahead(source)
    for step in [*range(3), 5, 6]:  # the fourth was made for nothing
        mine, theirs = ahead.micro_batches(step), source.micro_batches(step)
        assert [b.names for b in mine] == [b.names for b in theirs]
        assert all(torch.equal(a.ids, b.ids) for a, b in zip(mine, theirs, strict=True))
    ahead.close()


def test_an_error_of_the_thread_that_makes_batches_ends_the_training(target, capture):
    class Lost(OfflineBatches):
        def micro_batches(self, step: int) -> Sequence[Batch]:
            if step == 1:
                raise OSError("the disk is gone")
            return super().micro_batches(step)

    ahead = Ahead(Lost(capture, settings(), Head.of(target.model), target.device))
    ahead.micro_batches(0)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.micro_batches(1)
    ahead.close()
